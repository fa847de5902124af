"""Check the installed packages for known vulnerabilities (pip-audit): python tools/audit.py

Fails on those that requirements/accepted_vulnerabilities.txt does not accept. If the index or pip-audit cannot be
reached, it prints that and passes.
"""

import argparse
import json
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PIP_AUDIT = 'pip-audit==2.10.1'
ACCEPTED = Path(__file__).parents[1] / 'requirements' / 'accepted_vulnerabilities.txt'
_SECONDS = 600


def accepted(path: Path = ACCEPTED) -> dict[str, str]:
    """Return the accepted IDs and the reasons.

    Raises:
        ValueError: For a line without a reason.
    """
    found = {}
    for line in path.read_text(encoding='utf-8').splitlines():
        name, _, reason = line.strip().partition(' ')
        if name and not name.startswith('#'):
            if not reason.strip():
                raise ValueError(f'{path.name}: {name} has no reason after it')
            found[name] = reason.strip()
    return found


def judge(report: Mapping[str, Any], known: Mapping[str, str]) -> tuple[list[str], bool]:
    """Return the lines to print about a report of pip-audit, and whether a vulnerability is not accepted."""
    packages = report.get('dependencies', [])
    found = [one for one in packages if 'skip_reason' not in one]
    if not found:
        return [f'audit: skipped, the index knows none of the {len(packages)} packages (is it a mirror?)'], False
    lines, bad, seen = [], False, set()
    for package in found:
        for one in package.get('vulns', []):
            names = {one['id'], *one.get('aliases', [])}
            reason = next((known[name] for name in names if name in known), None)
            seen |= names
            bad |= reason is None
            fixed = ', '.join(one.get('fix_versions', [])) or 'no version'
            word = f'accepted: {reason}' if reason else f'NOT ACCEPTED, fixed in {fixed}'
            lines.append(f'audit: {package["name"]} {package["version"]} {one["id"]} {word}')
    lines += [f'audit: {name} is accepted but no longer found; remove it' for name in known if name not in seen]
    unknown = len(packages) - len(found)
    lines.append(f'audit: {len(found)} packages looked up, {unknown} unknown to the index; {"failed" if bad else "ok"}')
    return lines, bad


def ask() -> Mapping[str, Any] | str:
    """Return pip-audit's report on this environment, or the reason why there is none."""
    folder = sysconfig.get_path('purelib')
    uv = Path(sysconfig.get_path('scripts'), 'uv')
    command = [str(uv), 'tool', 'run', '--from', PIP_AUDIT, 'pip-audit', '--path', folder, '--format', 'json']
    try:
        done = subprocess.run(
            [*command, '--progress-spinner', 'off'], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        return json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    except json.JSONDecodeError:
        return (done.stderr.strip().splitlines() or ['no answer'])[-1]


def main() -> int:
    """Audit and print; return the exit status."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    known = accepted()
    report = ask()
    if isinstance(report, str):
        print(f'audit: skipped, the index of vulnerabilities could not be reached ({report[-300:]})')
        return 0
    lines, bad = judge(report, known)
    print(*lines, sep='\n')
    return int(bad)


if __name__ == '__main__':
    sys.exit(main())
