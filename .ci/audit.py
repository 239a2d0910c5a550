"""pip-audit, with what has a known vulnerability told apart from advisories that are out of reach.

Ends with 1 where something has a vulnerability and a version without it.  Arguments are pip-audit's, as ``--path``.
"""

import json
import subprocess
import sys

command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--timeout", "5"]
said = subprocess.run([*command, *sys.argv[1:]], capture_output=True, text=True, check=False)
try:
    packages = json.loads(said.stdout)["dependencies"]
except ValueError:
    packages = []
audited = [package for package in packages if "vulns" in package]
if not audited:
    # Where PyPI's advisories are not served, pip-audit finds no package and nothing wrong.
    reason = (said.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1] if not packages else "none is served"
    print(f"left out: no advisory can be had ({reason[:200]})")
    sys.exit(0)
curable = 0
for package in audited:
    for found in package["vulns"]:
        curable += bool(found["fix_versions"])
        cure = f"mended in {', '.join(found['fix_versions'])}" if found["fix_versions"] else "not mended yet"
        print(f"{package['name']} {package['version']}: {found['id']}, {cure}")
print(f"{len(audited)} of {len(packages)} packages audited")
sys.exit(min(curable, 1))
