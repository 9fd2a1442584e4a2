"""Where policies act: procedural and offline worlds whose truth is known. Imports no training code."""
