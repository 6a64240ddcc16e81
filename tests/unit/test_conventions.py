"""
The house rules that a reader of the source can check, checked on the source.

Each test collects every breach there is and reports them together.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

FILE_LINES = 500
FUNCTION_LINES = 50
SIGNATURE_NAMES = 10

#: Private siblings are pure but for these: who may import what that reaches out of the process.
REACHING = {
    "logging": {"_qemulab_host_log"},
    "salt": {"_qemulab_face"},
    "socket": {"_qemulab_host_net", "_qemulab_vm_qmp", "_qemulab_run_by_supervisord"},
    "subprocess": {"_qemulab_host_seam"},
}

FOLDERS = ("_modules/*.py", "_states/*.py", "libexec/*.py", "bench/**/*.py", "tests/**/*.py")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(repo: Path, *patterns: str) -> list[Path]:
    """Return the checkout's files that match, sorted."""
    return sorted(path for pattern in patterns for path in repo.glob(pattern))


def every_source(repo: Path) -> list[Path]:
    """Return all that is Python in the checkout."""
    return sources(repo, *FOLDERS)


def functions(path: Path) -> Iterator[tuple[str, Function]]:
    """Yield every function of a file, with the words that name it in a report."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Function):
            yield f"{path.parent.name}/{path.name}:{node.lineno} {node.name}", node


def public_functions(path: Path) -> Iterator[tuple[str, Function]]:
    """Yield those that Salt's loader publishes."""
    top = ast.parse(path.read_text(encoding="utf-8")).body
    names = {node.name for node in top if isinstance(node, Function)}
    for where, node in functions(path):
        if node.name in names and node.col_offset == 0 and not node.name.startswith("_"):
            yield where, node


def imports(path: Path) -> set[str]:
    """Return the top-level names of all that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def code_lines(node: Function) -> int:
    """Return how many lines a function has without its docstring."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def arguments(node: Function) -> list[str]:
    """Return the names in a function's signature."""
    spec = node.args
    every = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
    return [argument.arg for argument in every if argument is not None]


def test_execution_functions_have_a_cli_example(repo: Path) -> None:
    """What a user can call says how, in the words that sys.doc shows."""
    faults = [
        where
        for path in sources(repo, "_modules/qemulab*.py")
        for where, node in public_functions(path)
        if "CLI Example:" not in (ast.get_docstring(node) or "")
    ]
    assert not faults


def test_states_have_a_yaml_example(repo: Path) -> None:
    """What a user can declare is shown as SLS."""
    faults = [
        where
        for path in sources(repo, "_states/qemulab*.py")
        for where, node in public_functions(path)
        if ".. code-block:: yaml" not in (ast.get_docstring(node) or "")
    ]
    assert not faults


def test_public_functions_have_no_keyword_only_arguments(repo: Path) -> None:
    """Salt 3006 refuses them."""
    faults = [
        where
        for path in sources(repo, "_modules/qemulab*.py", "_states/qemulab*.py")
        for where, node in public_functions(path)
        if node.args.kwonlyargs
    ]
    assert not faults


def test_dataclasses_only_in_private_siblings(repo: Path) -> None:
    """Salt 3007 and later fail to load a module that defines one."""
    faces = sources(repo, "_modules/qemulab*.py", "_states/qemulab*.py")
    assert not [path.name for path in faces if "dataclasses" in imports(path)]


def test_no_error_prints_a_functions_documentation(repo: Path) -> None:
    """As salt-call does with twenty lines of it for every TypeError, and Salt's is one."""
    paths = sources(repo, "_modules/*.py")
    assert not [path.name for path in paths if "SaltInvocationError" in path.read_text("utf-8")]


def test_private_siblings_are_pure(repo: Path) -> None:
    """The seam runs programs, three open sockets, one logs, and one knows Salt: the faces' own."""
    siblings = sources(repo, "_modules/_qemulab_*.py")
    assert siblings
    faults = [
        f"{path.name} imports {name}"
        for path in siblings
        for name, allowed in REACHING.items()
        if name in imports(path) and path.stem not in allowed
    ]
    assert not faults


def test_files_are_short(repo: Path) -> None:
    """A file that grows longer is two things."""
    faults = []
    for path in every_source(repo):
        length = len(path.read_text(encoding="utf-8").splitlines())
        if length > FILE_LINES:
            faults.append(f"{path.relative_to(repo)}: {length} lines")
    assert not faults


def test_functions_are_short(repo: Path) -> None:
    """So is a function, docstring aside."""
    faults = [
        f"{where}: {code_lines(node)} lines"
        for path in every_source(repo)
        for where, node in functions(path)
        if code_lines(node) > FUNCTION_LINES
    ]
    assert not faults


def test_signatures_are_short(repo: Path) -> None:
    """Beyond ten names, a mapping or a dataclass says it better."""
    faults = [
        f"{where}: {len(arguments(node))} names"
        for path in every_source(repo)
        for where, node in functions(path)
        if len(arguments(node)) > SIGNATURE_NAMES
    ]
    assert not faults


def test_functions_have_a_docstring(repo: Path) -> None:
    """What Salt publishes and what other files call says in a sentence what it does."""
    faults = [
        where
        for path in sources(repo, "_modules/*.py", "_states/*.py")
        for where, node in public_functions(path)
        if not ast.get_docstring(node)
    ]
    assert not faults


def test_nothing_decides_by_the_words_of_a_path(repo: Path) -> None:
    """``disks:hda:size`` is for people; what has to know where a value stands asks its path."""
    taken_apart = re.compile(r"\.key(\.|\[| ==| in )")
    files = sources(repo, "_modules/*.py", "_states/*.py")
    assert not [path.name for path in files if taken_apart.search(path.read_text("utf-8"))]


def in_a_command_line(text: ast.JoinedStr) -> bool:
    """Return whether an f-string has the checkout's path as a word among others, unquoted."""
    before = ""
    for part in text.values:
        if isinstance(part, ast.Constant):
            before = str(part.value)
            continue
        value = ast.unparse(part.value) if isinstance(part, ast.FormattedValue) else ""
        path = re.search(r"\b(REPO|PROGRAMS|repo|checkout)\b", value)
        # What a test expects to read says "in" before it.
        if path and "quote(" not in value and re.search(r"(?<!\bin) $", before):
            return True
        before = "x"
    return False


def test_no_test_puts_the_checkouts_path_into_a_command_line_unquoted(repo: Path) -> None:
    """A checkout may lie in a path with spaces: it is an argument of its own, or quoted."""
    odd = ("f'cd {REPO}; ls'", "f'umask 0; exec {harness.REPO}/test {sls}'")
    fine = ("f'{REPO}/x'", "f'cd {shlex.quote(str(REPO))}'", "f'[{REPO}]'", "f'made in {repo}'")
    for text in (*odd, *fine):
        (parsed,) = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.JoinedStr))
        assert in_a_command_line(parsed) is (text in odd), text
    breaches = [
        f"{path.name}:{node.lineno}"
        for path in sources(repo, "tests/**/*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.JoinedStr) and in_a_command_line(node)
    ]
    assert not breaches
