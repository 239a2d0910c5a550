function bars() { return ""; }
function scatter() { return ""; }
function phases() { return ""; }
function curves() { return ""; }
