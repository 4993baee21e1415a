"""The `README.md` of a bundle: its manifest, told to a person.

MB are 10^6 bytes.
"""

from __future__ import annotations

import re
from collections import defaultdict

from export.manifest import GraphEntry, Manifest, TensorSpec

MAX_PATTERNS = 8  # names shown of the layers that share a reason


def render_model_card(manifest: Manifest) -> str:
    """The model card as Markdown. Every figure in it stands in the manifest."""
    sections = (_head, _run, _graphs, _excluded, _operators, _parity, _accuracy, _origin)
    return "\n\n".join(filter(None, (section(manifest) for section in sections))) + "\n"


def _head(manifest: Manifest) -> str:
    overrides = ", ".join(f"{component} as {scheme}" for component, scheme in manifest.quant_overrides.items())
    lines = [
        f"# {manifest.checkpoint_name} for {manifest.target}",
        "",
        "A Mobile-VideoGPT checkpoint as a bundle for phones: it answers questions about a video, on the device.",
        "",
        f"- Checkpoint: {manifest.checkpoint_name} (fingerprint `{manifest.checkpoint_fingerprint}`)",
        f"- Recipe: `{manifest.recipe}`{f', with {overrides}' if overrides else ''}; {manifest.bits_per_weight:.2f} bits per weight",
        f"- Size: {_mb(manifest.bundle_bytes)} MB; expected peak memory: {_mb(manifest.expected_memory_bytes)} MB",
        f"- Context: up to {manifest.decoder.max_context:,} tokens, of which a video takes {manifest.config().visual_tokens:,}",
    ]
    if not manifest.verified:
        lines += ["", "**This bundle is not verified**: built with `--no-verify`, nothing shows that it computes what the model computes."]
    return "\n".join(lines)


def _run(manifest: Manifest) -> str:
    command = "python -m runtime_py.chat --bundle DIR --video FILE"
    if "tokenizer.json" in manifest.files:
        return f"## How to run it\n\n```\n{command}\n```"
    return (
        "## How to run it\n\nThe checkpoint came without a tokenizer, so `chat` cannot run; these need none:\n\n"
        "```\npython -m runtime_py.parity --bundle DIR\npython -m runtime_py.bench --bundle DIR\n```"
    )


def _graphs(manifest: Manifest) -> str:
    rows = [
        (
            f"`{graph.name}`",
            f"`{graph.file}`",
            _mb(graph.bytes),
            f"{_tensors(graph.inputs)} → {_tensors(graph.outputs)}",
            _schemes(graph),
            graph.activations,
            f"{_percent(graph.delegated)} ({graph.delegate})",
        )
        for graph in manifest.graphs.values()
    ]
    header = ("graph", "file", "MB", "inputs → outputs", "weights", "activations", "operators delegated")
    axes = sorted({(axis.name, axis.minimum, axis.maximum) for graph in manifest.graphs.values() for axis in graph.dynamic_axes})
    ranges = "; ".join(f"`{name}` from {low:,} to {high:,}" for name, low, high in axes)
    note = f"\n\nSizes that the host chooses: {ranges}." if axes else ""
    return f"## Graphs\n\n{_table(header, rows)}{note}"


def _excluded(manifest: Manifest) -> str:
    """One line for each graph and reason; layers that differ in their numbers only are shown as one pattern."""
    layers = defaultdict(list)
    for graph in manifest.graphs.values():
        for layer, reason in graph.excluded.items():
            layers[graph.name, reason].append(layer)
    lines = []
    for (graph, reason), names in layers.items():
        patterns = list(dict.fromkeys(re.sub(r"(?<![^.])\d+(?![^.])", "*", name) for name in names))
        shown = ", ".join(f"`{pattern}`" for pattern in patterns[:MAX_PATTERNS]) + (", ..." if len(patterns) > MAX_PATTERNS else "")
        lines.append(f"- `{graph}`: {shown} ({_count(len(names), 'layer')}): {_one_line(reason)}")
    return "## Layers the recipe leaves out\n\n" + "\n".join(lines) if lines else ""


def _operators(manifest: Manifest) -> str:
    needed = sorted({operator for graph in manifest.graphs.values() for operator in graph.operators})
    lines = [f"Outside the delegates the graphs need: {', '.join(f'`{name}`' for name in needed) or 'nothing'}."]
    if manifest.custom_operators:
        names = ", ".join(f"`{name}`" for name in manifest.custom_operators)
        lines.append(f"A host must also link operators that the stock runtime has not: {names}.")
    else:
        lines.append("The stock runtime has all of them; a host need not link anything else.")
    return "## Operators\n\n" + " ".join(lines)


def _parity(manifest: Manifest) -> str:
    if not manifest.parity:
        return ""
    rows = [
        (
            f"`{stage.stage}`",
            stage.metric,
            f"{stage.own_error:.3g} (at most {stage.threshold_own:.3g})",
            f"{stage.chained_error:.3g} (at most {stage.threshold_chained:.3g})",
            "yes" if stage.passed else "**no**",
            stage.note,
        )
        for stage in manifest.parity
    ]
    meaning = "Each stage against the reference: fed with the reference's input (own), and as a user gets it (chained)."
    header = ("stage", "metric", "own error", "chained error", "passed", "note")
    return f"## Parity with the model\n\n{meaning}\n\n{_table(header, rows)}"


def _accuracy(manifest: Manifest) -> str:
    """What the gates measured, where the build was given any."""
    figures = manifest.accuracy
    if not figures:
        return ""
    lines = []
    if "right" in figures:
        asked = int(figures["questions"])
        right, model = int(figures["right"]), int(figures["reference_right"])
        lines.append(f"Of {asked:,} questions the bundle answers {right:,} right, the model {model:,}.")
    if "kl" in figures:
        lines.append(
            f"Over {int(figures['answer_tokens']):,} answer tokens its distributions are {figures['kl']:.4f} nats (mean KL divergence) "
            f"from the model's, and {figures['top1_agreement']:.2%} have the same best id."
        )
    return "## Answers\n\n" + " ".join(lines)


def _origin(manifest: Manifest) -> str:
    tools = ", ".join(f"{name} {version}" for name, version in manifest.tool_versions.items())
    rows = list(manifest.licenses.items())
    licenses = f"The weights keep the licences of their sources:\n\n{_table(('part', 'licence'), rows)}\n\n" if rows else ""
    return f"## Licences and origin\n\n{licenses}Built {manifest.created} with {tools}."


def _tensors(tensors: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"`{tensor.name}` {tensor.dtype} [{', '.join(map(str, tensor.shape))}]" for tensor in tensors)


def _schemes(graph: GraphEntry) -> str:
    total = sum(share.weights for share in graph.schemes)
    return ", ".join(f"{share.scheme} {_percent(share.weights / total)}" for share in graph.schemes if share.weights) or "none"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    cells = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(_one_line(cell).replace("|", "\\|") for cell in row) + " |" for row in cells)


def _percent(share: float) -> str:
    """Rounded, but never to all or nothing where it is not."""
    if share in (0, 1):
        return f"{share:.0%}".replace("%", " %")
    return f"{min(max(share * 100, 0.1), 99.9):.1f} %"


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f}" if size >= 100_000 or not size else f"{size / 1e6:.3f}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _one_line(text: str) -> str:
    return " ".join(text.split())
