"""Which page is where: six sections, their pages, and one sentence on each.

The sections' own pages and ``llms.txt`` are made from these sentences. Every document of the repository is in one
section, or in ``NOT_SHOWN`` (tests/docs/test_navigation.py).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HOME", "NOT_SHOWN", "SECTIONS", "Page", "Section"]

HOME = "README.md"
"""The page that is shown first."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the site."""

    source: str
    """Path in the repository; of a generated page its name, without a folder."""
    about: str
    """One sentence, for the page of its section and for ``llms.txt``."""
    label: str = ""
    """In the navigation; empty: the page's own heading."""
    group: str = ""
    """Heading under which the section's page and the navigation list it, with its neighbours of the same group."""
    is_generated: bool = False
    """Whether ``reference`` writes it from the code."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the site: a folder of addresses, and an entry of the bar at the top."""

    folder: str
    title: str
    about: str
    pages: tuple[Page, ...]


SECTIONS = (
    Section(
        "start",
        "Start",
        "From nothing to a model that is trained on your own records.",
        (
            Page(
                "docs/start.md",
                "From installed to a model that is trained on your own records, and what you have to write for it.",
                "Your own records",
            ),
            Page("docs/demo.md", "Try every command on a small model that comes with the package, without a download."),
            Page("docs/python.md", "Train, ask and measure from a program or a notebook."),
        ),
    ),
    Section(
        "guides",
        "Guides",
        "One page for each task, from data to a model that serves.",
        (
            Page(
                "docs/data.md", "Data files: records, images in the text, all formats, and checking them.", group="Data"
            ),
            Page(
                "docs/how_much_data.md",
                "How many records, how many steps and which settings: measured on the demo.",
                "How many records",
                group="Data",
            ),
            Page(
                "docs/fields.md",
                "Answer with the fields of a document as JSON, and invent none that it lacks.",
                "Fields as JSON",
                group="Data",
            ),
            Page(
                "docs/films.md", "Records with films: which frames a model sees, and how to choose them.", group="Data"
            ),
            Page(
                "docs/show.md",
                "See records as the model reads them: tokens, slices, and what is trained.",
                group="Data",
            ),
            Page(
                "docs/memory.md",
                "What fits on one card, with which flags, and what each way of needing less memory costs.",
                "Small enough for one card",
                group="Training",
            ),
            Page(
                "docs/estimate.md",
                "Predict whether a run fits a GPU, how long it takes, and which flags make it fit.",
                "Memory and time",
                group="Training",
            ),
            Page(
                "docs/training.md",
                "Train: what learns, packing, precision, checkpoints, resuming, several GPUs.",
                group="Training",
            ),
            Page("docs/docker.md", "Run in a container, with or without a GPU.", "Containers", group="Training"),
            Page("docs/windows.md", "Install under WSL 2, and what is known of Windows itself.", group="Training"),
            Page("docs/hubs.md", "Name models on Hugging Face's hub, on ModelScope or on a mirror.", group="Training"),
            Page("docs/clusters.md", "Train on several machines, also under Slurm.", group="Training"),
            Page(
                "docs/preference.md",
                "Train with better and worse answers: DPO, MPO, SimPO, ORPO and others.",
                "Preferences",
                group="Training",
            ),
            Page(
                "docs/omni.md",
                "Train vision and language of MiniCPM-o; hearing and speech stay as they are.",
                "MiniCPM-o",
                group="Training",
            ),
            Page(
                "docs/report.md",
                "Read a run's report: curves, and answers before and after training.",
                group="Training",
            ),
            Page(
                "docs/inference.md",
                "Chat, answer a file of questions, and use the model from Python.",
                "Chat and predict",
                group="Using a model",
            ),
            Page(
                "docs/ui.md",
                "Talk to one model, or two side by side, in the browser.",
                "In the browser",
                group="Using a model",
            ),
            Page(
                "docs/evaluation.md",
                "Measure answers with metrics and intervals, and compare two models.",
                "Evaluation",
                group="Using a model",
            ),
            Page(
                "docs/serving.md",
                "Serve a model and its adapters as OpenAI's chat completions.",
                "Serving",
                group="Using a model",
            ),
            Page(
                "docs/merging.md",
                "Merge an adapter, or load one from the official scripts, ms-swift or LLaMA-Factory.",
                "Merging",
                group="Using a model",
            ),
            Page(
                "docs/deploy/README.md",
                "Which other engines run a tuned model, and how far their answers agree.",
                "Other engines",
                group="Other engines",
            ),
            Page("docs/deploy/llama_cpp.md", "Export GGUF files and run them with llama.cpp.", group="Other engines"),
            Page("docs/deploy/ollama.md", "Run the GGUF files with Ollama.", group="Other engines"),
            Page("docs/deploy/vllm.md", "Serve a tuned model with vLLM.", group="Other engines"),
            Page("docs/deploy/sglang.md", "Serve a tuned model with SGLang.", group="Other engines"),
            Page(
                "docs/deploy/openvino.md",
                "Export a tuned model with optimum-intel and run it with OpenVINO.",
                group="Other engines",
            ),
            Page(
                "docs/deploy/released_code.md",
                "Load a tuned model with transformers and the released code.",
                group="Other engines",
            ),
            Page(
                "docs/deploy/quantized.md",
                "Store weights in 8 bits with torchao, or 4 bits for vLLM.",
                "Fewer bits",
                group="Other engines",
            ),
            Page("docs/deploy/devices.md", "What the makers say of phones, boards and Macs.", group="Other engines"),
        ),
    ),
    Section(
        "recipes",
        "Recipes",
        "Worked ways through a whole task.",
        (
            Page("docs/from_official.md", "What the official scripts' variables and flags are here, and what differs."),
            Page("docs/from_ms_swift.md", "What ms-swift's commands, flags and data are here, and what differs."),
            Page(
                "docs/from_llama_factory.md", "What LLaMA-Factory's commands, keys and data are here, and what differs."
            ),
            Page("docs/forgetting.md", "Measure a second evaluation set, and see what a model loses.", "Forgetting"),
            Page("docs/benchmarks.md", "Ask a tuned model the questions of VLMEvalKit and lmms-eval."),
            Page("docs/pairs.md", "Sample answers, judge them, and train on the pairs.", "Pairs of answers"),
            Page("docs/trl.md", "Train with TRL's DPO and GRPO trainers.", "TRL"),
        ),
    ),
    Section(
        "reference",
        "Reference",
        "Commands, flags, codes and Python names, written from the code.",
        (
            Page("commands.md", "Every command and its options, as `--help` prints them.", is_generated=True),
            Page("training_flags.md", "Every flag of `minicpmv train`, with its default.", is_generated=True),
            Page(
                "src/minicpmv/data/checks/assets/codes.md",
                "Every code of a message about data, with an example and what to do.",
                "Codes of data",
            ),
            Page("metrics.md", "Every metric, with what it measures.", is_generated=True),
            Page(
                "python_names.md", "The public Python names, with their docstrings.", "Python names", is_generated=True
            ),
            Page("docs/versions.md", "The released versions, and what differs between them.", "Releases"),
            Page("docs/glossary.md", "One word for one thing."),
            Page("CHANGELOG.md", "What changed."),
        ),
    ),
    Section(
        "understand",
        "Understand",
        "How it works, what was measured, and where it differs from the released code.",
        (
            Page("docs/differences.md", "Where this package differs from the released code on purpose.", "Differences"),
            Page("docs/performance.md", "What was measured about speed, and what to set."),
            Page("docs/gpu.md", "What is known about GPUs without having run on one, and the checks to run on yours."),
            Page("docs/architecture.md", "The folders of the code, the one direction of imports, and why."),
            Page("docs/new_release.md", "Add a release that the package does not know yet.", "A new release"),
            Page("CONTRIBUTING.md", "Set up, check, test and send a change."),
            Page("SECURITY.md", "What is guarded against, and how to report a fault."),
        ),
    ),
    Section(
        "zh",
        "中文",
        "中文页面。其余各页为英文。",
        (
            Page("docs/zh/README.md", "本包做什么，怎样安装、训练、评测和部署。", "概览"),
            Page("docs/zh/start.md", "从安装好到用自己的数据训练出模型，以及要写些什么。"),
            Page("docs/zh/data.md", "数据文件：记录、文本中的图片、各种格式，以及检查。"),
            Page("docs/zh/codes.md", "数据提示的每个代码：含义和处理办法。"),
        ),
    ),
)

NOT_SHOWN = {
    "tests/fixtures/README.md": "for those who remake the fixtures, next to them",
}
"""Documents that are not on the site, each with the reason."""
