"""Do the views of one answer show what they claim to show?

    python -m benchmarks.attention [--quick] [--write] [--only PART ...]

Parts, each with its bar (exit status 1 if one is missed):

causal     ordered ICD on records of known linear graphs: share of the runs that find the answer.
relevancy  200 test scenes of the bundled model: relevancy of the object's word against the object's
           pixels (AUROC), raw attention beside it, the same answers under re-initialised weights as
           a control; deletion and insertion areas against those of random maps.
ablation   the concept that best detects a colour, taken out of the residual stream, against the
           same length along other concepts: the logit of the colour's word.
time       seconds of the trace and all views of one answer, page included.
gpu        the same views at the shape of LLaVA-1.5-7B, random weights, bfloat16: seconds, memory.

That rows sum to 1, logits are those of SDPA, grids fit and the recursion is that of the full matrix
is shown for tiny models of all families in tests/attention and tests/lmm.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import stats
from sklearn.metrics import roc_auc_score

from benchmarks._causal_data import CASES, share_recovered
from benchmarks._record import run_parts, verdict
from semi_nmf_concepts.attention import deletion_insertion, relevancy, trace_answer
from semi_nmf_concepts.datasets import load_scenes
from semi_nmf_concepts.lmm import mentions

FOUND, AUROC, CONTROL, P_VALUE, SECONDS = 0.93, 0.75, 0.60, 0.01, 5.0
N_SCENES = 200
THROUGH = ("language", "vision", "both")


# --- causal ---------------------------------------------------------------------------------------


def causal(options):
    """Share of the runs that find the whole graph."""
    missed = 0
    n_runs = 50 if options.quick else 200
    print(f"{n_runs} runs each; 5,000 records, coefficients +-[0.5, 1], alpha = 0.01, order given")
    for name, case in CASES.items():
        share = share_recovered(case, n_runs=n_runs)
        missed += share < FOUND
        print(f"{verdict(share >= FOUND)} {name:18} {share:6.1%}  {', '.join(case.expected)}")
    return missed


# --- relevancy ------------------------------------------------------------------------------------


def object_word(trace, name):
    """Index of the first word of the answer that names the object, or None."""
    found = mentions([word.text for word in trace.words], name)
    return int(np.argmax(found)) if np.any(found) else None


def auroc(map_, boxes):
    """How well a map tells the pixels inside the boxes from the others."""
    width, height = map_.images[0].size
    inside = np.zeros((height, width), dtype=bool)
    for left, top, right, bottom in boxes:
        inside[top:bottom, left:right] = True
    return roc_auc_score(inside.ravel(), map_.pixels().ravel())


def reinitialised(folder):
    """The bundled model's architecture and processor with random weights, in a folder."""
    import torch

    from benchmarks.bundled_model_config import build_model, build_processor

    torch.manual_seed(0)
    build_model().save_pretrained(folder)
    build_processor().save_pretrained(folder)
    return str(folder)


def maps_of(trace, word):
    """name -> map of one word."""
    maps = {f"relevancy, {path}": relevancy(trace, word, path).map(word) for path in THROUGH}
    maps["attention, mean"] = trace.image_attention(word)
    for layer in trace.layers:
        maps[f"attention, layer {layer}"] = trace.image_attention(word, layer=layer)
    return maps


def relevancy_part(options):
    """AUROC, control, deletion and insertion."""
    n_scenes = 40 if options.quick else N_SCENES
    scenes = load_scenes("test", n=n_scenes)
    aurocs, control, areas, skipped = {}, {}, {}, 0
    with tempfile.TemporaryDirectory() as folder:
        random_model = reinitialised(Path(folder, "model"))
        for i, image in enumerate(scenes.images):
            factors = scenes.factors.iloc[i]
            trace = trace_answer(images=image)
            word = object_word(trace, factors["object"])
            if word is None:
                skipped += 1
                continue
            maps = maps_of(trace, word)
            for name, map_ in maps.items():
                aurocs.setdefault(name, []).append(auroc(map_, factors["boxes"]))
            same = trace_answer(random_model, image, trace.question, trace.run_again.ids)
            for name, map_ in maps_of(same, word).items():
                control.setdefault(name, []).append(auroc(map_, factors["boxes"]))
            for name in ("relevancy, language", "relevancy, both", "attention, mean"):
                curves = deletion_insertion(trace, maps[name], word=word, random_state=i)
                row = [curves.deletion_area, curves.random_deletion_areas.mean()]
                row += [curves.insertion_area, curves.random_insertion_areas.mean()]
                areas.setdefault(name, []).append(row)
    print(f"{n_scenes} test scenes, {skipped} left out: their answer does not name the object")
    return _report_aurocs(aurocs, control) + _report_areas(areas)


def _report_aurocs(aurocs, control):
    missed = 0
    print("\nPixel AUROC of the object's word against the object's boxes, mean over scenes")
    print("     map                    model  re-initialised weights")
    for name, values in aurocs.items():
        mean, random = np.mean(values), np.mean(control[name])
        mark = "    "
        if name == "relevancy, language":
            ok = mean >= AUROC and random <= CONTROL
            mark, missed = verdict(ok), missed + (not ok)
        print(f"{mark} {name:22} {mean:6.3f}  {random:6.3f}")
    return missed


def _report_areas(areas):
    missed = 0
    print("\nAreas of the probability of the word, mean over scenes; p: paired, one-sided t-test")
    print("     map                    deletion  random        p   insertion  random        p")
    for name, rows in areas.items():
        deletion, random_deletion, insertion, random_insertion = np.array(rows).T
        p_deletion = stats.ttest_rel(deletion, random_deletion, alternative="less").pvalue
        p_insertion = stats.ttest_rel(insertion, random_insertion, alternative="greater").pvalue
        mark = "    "
        if name == "relevancy, language":
            mark, missed = verdict(p_deletion < P_VALUE), missed + (not p_deletion < P_VALUE)
        print(
            f"{mark} {name:22} {deletion.mean():8.3f}  {random_deletion.mean():6.3f}  "
            f"{p_deletion:7.1e}   {insertion.mean():9.3f}  {random_insertion.mean():6.3f}  "
            f"{p_insertion:7.1e}"
        )
    return missed


# --- ablation -------------------------------------------------------------------------------------


def ablation(options):
    """The logit of a colour's word without the concept that detects the colour."""
    from benchmarks._ablation import report_ablation

    return report_ablation(n_scenes=60 if options.quick else N_SCENES, p_value=P_VALUE)


# --- time -----------------------------------------------------------------------------------------


def seconds(options):
    """Trace, all views, page."""
    import torch

    from benchmarks._ablation import bundled_report
    from semi_nmf_concepts.attention import explain_answer

    report = bundled_report()
    images = load_scenes("test", token="dog", n=11).images
    totals, by_view = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(images):
            start = time.perf_counter()
            explanation = explain_answer(images=image, concepts=report)
            before_page = time.perf_counter()
            explanation.to_html(Path(folder, "page.html"))
            end = time.perf_counter()
            if i == 0:  # imports, kernels, weights
                continue
            totals.append(end - start)
            for name, value in [
                *explanation.settings["seconds"].items(),
                ("page", end - before_page),
            ]:
                by_view.setdefault(name, []).append(value)
        size = Path(folder, "page.html").stat().st_size
    print(f"bundled model, {torch.get_num_threads()} threads, {len(totals)} answers, medians in s")
    for name, values in by_view.items():
        print(f"     {name:24} {statistics.median(values):6.2f}")
    total = statistics.median(totals)
    ok = verdict(total < SECONDS)
    print(f"{ok} together                 {total:6.2f}  (slowest {max(totals):.2f})")
    print(f"     page: {size / 1e6:.2f} MB")
    return int(total >= SECONDS)


# --- gpu ------------------------------------------------------------------------------------------


def gpu(options):
    """Views of one answer of 32 tokens; memory beyond the weights stays far from S x S x layers."""
    import torch

    if not torch.cuda.is_available():
        print("not measured: no CUDA device")
        return 0
    from benchmarks._extraction_models import photographs, random_llava
    from semi_nmf_concepts.attention import causal_graph, relevancies
    from semi_nmf_concepts.lmm import load_model

    with tempfile.TemporaryDirectory() as folder:
        path = random_llava(Path(folder, "model"), "llava-1.5-7b", dtype="bfloat16", device="cuda")
        torch.cuda.empty_cache()
        image = photographs(folder, 1)[0]
        handle = load_model(str(path), dtype="bfloat16", device="cuda")
        weights = torch.cuda.memory_allocated() if handle.loaded else 0
        trace = trace_answer(handle, image, "what is this", max_new_tokens=32)
        length, n_layers, n_heads = len(trace.token_ids), trace.n_layers, trace.n_heads
        whole = 2 * n_layers * n_heads * length * length
        print(f"{torch.cuda.get_device_name(0)}; S = {length}, {n_layers} layers, {n_heads} heads")
        print(f"     attention kept {trace.attention.nbytes / 2**20:7.1f} MiB")
        print(f"     whole matrices {whole / 2**20:7.1f} MiB (in half precision)")
        word, missed = 0, 0
        map_ = trace.image_attention(word)
        views = {
            "trace, answer given": lambda: trace_answer(
                handle, image, "what is this", trace.run_again.ids
            ),
            "relevancy of a word, all ways": lambda: relevancies(trace, word),
            "causal graph": lambda: causal_graph(trace, word, 16, 0),
            "deletion and insertion": lambda: deletion_insertion(trace, map_, word=word),
        }
        for name, view in views.items():
            view()
            torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            view()
            torch.cuda.synchronize()
            taken = time.perf_counter() - start
            peak = (torch.cuda.max_memory_allocated() - weights) / 2**20
            print(f"     {name:30} {taken:6.2f} s, {peak:8.1f} MiB beyond the weights")
            if name.startswith("trace"):
                missed += peak * 2**20 >= whole
                print(f"{verdict(not missed)} less than the whole matrices")
    return missed


PARTS = {
    "causal": causal,
    "relevancy": relevancy_part,
    "ablation": ablation,
    "time": seconds,
    "gpu": gpu,
}


def main(arguments=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer runs and scenes, two minutes")
    parser.add_argument(
        "--write", action="store_true", help="keep the output in results/attention_PART.txt"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    options = parser.parse_args(arguments)
    return run_parts("attention", PARTS, options.only, options)


if __name__ == "__main__":
    sys.exit(main())
