import io
import itertools
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from distill.report import (
    UNFAMILIAR,
    Illustrations,
    Picture,
    PlottedScores,
    embedding_map,
    report_html,
    report_thumbnail,
    sample_cosines,
    sample_queries,
)
from distill.report.plots import training_curves
from isogon.bundle import Manifest, Provenance, StudentCard, TeacherCard
from isogon.bundle.evaluation import (
    Baseline,
    Bootstrap,
    ClassAccuracy,
    Corruptions,
    Cost,
    Estimate,
    Evaluation,
    Fidelity,
    OodFigures,
    Quality,
    Training,
    UnfamiliarSet,
)
from isogon.cli.evaluation import evaluation_table, print_evaluation, print_fitting
from isogon.images import Preprocessing
from isogon.ood import Calibration

HOSTILE = '<script>alert("x")</script>&$\\frac$ 类'
CLASSES = ("cat", HOSTILE, "class-name-0", "salamander")
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """The parts of the page that the tests look at, as a browser sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def unit(generator: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = generator.normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def quality(*sets: str) -> Quality:
    accuracy = Estimate(value=0.9, low=0.85, high=0.93)
    figures = OodFigures(
        auroc=Estimate(value=0.813, low=0.79, high=0.84),
        fpr95_ood_positive=0.41,
        fpr95_id_positive=0.52,
    )
    return Quality(
        knn_accuracy=accuracy,
        linear_accuracy=accuracy,
        ood={name: {"knn_k1": figures, "mahalanobis": figures} for name in sets},
        corruptions=Corruptions(
            images=50,
            severities=(1, 3, 5),
            clean_accuracy=0.9,
            accuracy={"gaussian_noise": 0.6, "jpeg_compression": 0.7},
        ),
    )


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return Evaluation(
        bank_images=60,
        test_images=25,
        test_digest="ab" * 32,
        unfamiliar={
            "textures": UnfamiliarSet(images=15, kind="far"),
            HOSTILE: UnfamiliarSet(images=7, kind="near"),
        },
        detector="knn_k1",
        bootstrap=Bootstrap(resamples=1000, seed=0),
        fidelity=Fidelity(angle_distortion=0.123, neighbour_overlap=0.45, linear_cka=0.6),
        teacher=quality("textures", HOSTILE),
        student=quality("textures", HOSTILE),
        training=Training(
            terms=({"local": 1.0, "token": 0.5}, {"local": 0.7, "token": 0.25}),
            seconds_per_epoch=3.0,
        ),
    )


@pytest.fixture(scope="module")
def drawn() -> Illustrations:
    generator = np.random.default_rng(0)
    teacher = {n: unit(generator, n, 12) for n in (60, 25, 22)}
    student = {n: unit(generator, n, 6) for n in (60, 25, 22)}
    labels = np.arange(25) % len(CLASSES)

    def picture(place: int) -> Picture:
        pixels = np.full((90, 60, 3), place, dtype=np.uint8)
        name = CLASSES[place % len(CLASSES)]
        return Picture(index=place, pixels=report_thumbnail(pixels), label=name)

    manifest = Manifest(
        name="pets",
        width=6,
        preprocessing=Preprocessing(
            height=32, width=32, crop=1.0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
        ),
        student=StudentCard(
            architecture="test_resnet", licence="none given", width=6,
            embedding_layer=True, parameters=385_104,
        ),
        teacher=TeacherCard(
            architecture="tf_efficientnet_lite0", weights="package:x", licence="Apache-2.0",
            width=12, parameters=3_371_008,
        ),
        provenance=Provenance(
            created="2025-11-20T09:41:46+00:00", images=f"/data/{HOSTILE}", image_count=100,
            classes=CLASSES, seed=0, versions={"torch": "2.15.0"},
        ),
    )  # fmt: skip
    return Illustrations(
        manifest=manifest,
        recipe='name = "</pre><script>"\n',
        cosines=sample_cosines(teacher[25], teacher[60], student[25], student[60]),
        scores=PlottedScores(
            detector="knn_k1",
            alpha=0.05,
            calibrated_on=100,
            threshold=0.7,
            familiar=np.append(generator.normal(0.5, 0.1, 24), np.nan),
            unfamiliar={
                "textures": generator.normal(0.9, 0.1, 15),
                HOSTILE: np.full(7, 0.5),
            },
        ),
        queries=sample_queries(
            student[25], student[60], teacher[25], teacher[60],
            test_picture=picture, bank_picture=picture,
        ),
        map=embedding_map(
            student[25], teacher[25], labels, student[22], teacher[22], classes=CLASSES
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def html(evaluation: Evaluation, drawn: Illustrations) -> str:
    return report_html(evaluation, drawn)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_is_whole_and_its_figures_are_all_there(page: Page) -> None:
    assert page.open == []
    captions, figures = page.named("figcaption"), page.named("figure")
    assert len(figures) == len(captions) == 7  # scatter, 2 sets, bars, 2 maps, training
    labels = [svg["aria-label"] or "" for svg in page.named("svg")]
    assert len(labels) == 6 + 3  # the training has its total and two terms
    assert all(len(label) > 30 for label in labels)
    assert {"gaussian noise", "student's cosine", "total", "epoch"} <= set(page.texts)
    for said in ("0.123", "45.0\N{NO-BREAK SPACE}%", "0.813", "OpenOOD", "ViM", "41.0"):
        assert said in page.text


def test_the_page_runs_nothing_and_loads_nothing(html: str, page: Page) -> None:
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form", "base"}
    (policy,) = (m for m in page.named("meta") if "http-equiv" in m)
    assert policy["content"] == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    )
    assert "http:" not in html
    assert "https:" not in html
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href"):
            assert re.match(r"data:image/(webp|png);|#", attributes.get(name) or "#")
    assert not re.findall(r"@import|url\((?!#)", html)


def test_words_from_outside_are_shown_and_never_read_as_markup(page: Page) -> None:
    joined = "".join(page.texts)
    assert joined.count(HOSTILE) > 5  # sets, classes in map and legend, neighbours, path
    assert '"</pre><script>"' in joined
    alts = [image["alt"] or "" for image in page.named("img")]
    assert any(HOSTILE in alt for alt in alts)
    assert any(HOSTILE in (svg["aria-label"] or "") for svg in page.named("svg"))
    assert page.texts.count("class-name-0") >= 3  # a class of that name stays itself


def test_references_inside_the_page_lead_somewhere_and_ids_are_unique(
    html: str, page: Page
) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    asked = re.findall(r'href="#([^"]+)"', html) + re.findall(r"url\(#([^)]+)\)", html)
    assert asked
    assert set(asked) <= set(ids)


def test_colours_are_the_style_sheets(html: str) -> None:
    style = html[html.index("<style>") : html.index("</style>")]
    used = set(re.findall(r"var\(--([a-z0-9-]+)\)", html))
    light, dark = style.split("prefers-color-scheme: dark", 1)
    for name in used:
        assert f"--{name}:" in light, name
        assert f"--{name}:" in dark, name
    assert "#0e0d" not in html
    assert "#000000" not in html.replace(style, "")


def test_headings_are_in_order_and_tables_say_what_their_cells_are(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all("scope" in cell for cell in page.named("th"))
    assert all(image["alt"] for image in page.named("img"))
    assert page.elements[0] == ("html", {"lang": "en"})


def test_the_same_input_gives_the_same_page(
    html: str, evaluation: Evaluation, drawn: Illustrations
) -> None:
    assert report_html(evaluation, drawn) == html


def test_without_teacher_the_page_speaks_of_the_student_alone(
    evaluation: Evaluation, drawn: Illustrations
) -> None:
    assert drawn.map is not None
    alone = replace(
        drawn,
        cosines=None,
        queries=tuple(replace(query, teacher=None) for query in drawn.queries),
        map=replace(drawn.map, teacher=None),
    )
    without = evaluation.model_copy(update={"teacher": None, "fidelity": None})
    page = Page(report_html(without, alone))
    assert page.open == []
    assert len(page.named("figure")) == 5
    assert page.texts.count("teacher") == 1  # in the provenance
    assert "the teacher" not in page.text
    assert not re.search(r"\d of \d kept", page.text)


def test_a_collapsed_student_is_reported_without_what_it_has_no_figure_for(
    evaluation: Evaluation, drawn: Illustrations, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluation.fidelity is not None
    assert drawn.cosines is not None
    lost = evaluation.fidelity.model_copy(update={"linear_cka": None})
    collapsed = evaluation.model_copy(update={"fidelity": lost})
    same = replace(drawn.cosines, student=np.ones_like(drawn.cosines.student))
    page = Page(report_html(collapsed, replace(drawn, cosines=same)))
    assert page.open == []
    assert "linear CKA" not in page.texts
    assert "neighbour overlap@10" in page.texts
    assert "the same cosine to all" in page.text
    print_evaluation(collapsed, title="collapsed")
    shown = capsys.readouterr().out
    assert "neighbour overlap@10" in shown
    assert "linear CKA" not in shown


def test_what_was_not_measured_has_no_section(
    evaluation: Evaluation, drawn: Illustrations
) -> None:
    nothing = Quality(knn_accuracy=None, linear_accuracy=None, ood={})
    bare = evaluation.model_copy(
        update={
            "unfamiliar": {},
            "fidelity": None,
            "teacher": None,
            "student": nothing,
            "training": Training(terms=()),
        }
    )
    page = Page(report_html(bare, Illustrations(manifest=drawn.manifest, recipe="")))
    assert page.open == []
    assert page.named("figure") == []
    assert [section.get("id") for section in page.named("section")] == [
        None,
        "parity",  # until `export` fills it in, it says so
        "provenance",
    ]
    assert [link["href"] for link in page.named("a")] == [
        "#parity",
        "#provenance",
    ]


@pytest.fixture
def beside(evaluation: Evaluation) -> Evaluation:
    """The evaluation with the network before training, which the student beats."""
    kept = Fidelity(angle_distortion=0.2, neighbour_overlap=0.3, linear_cka=0.5)
    start = Fidelity(angle_distortion=0.187, neighbour_overlap=0.376, linear_cka=0.5)
    quality_before = quality("textures", HOSTILE)
    gain = Estimate(value=0.15, low=0.12, high=0.18)
    return evaluation.model_copy(
        update={
            "undistilled": Baseline(fidelity=kept, quality=quality_before),
            "start": Baseline(fidelity=start, quality=quality_before),
            "pretrained": True,
            "gains": {
                "overlap@10": gain,
                "angle distortion": Estimate(value=-0.077, low=-0.08, high=-0.07),
                f"AUROC {HOSTILE}": Estimate(value=0.0, low=-0.01, high=0.01),
            },
            "unfamiliar": {
                "textures": UnfamiliarSet(images=15, kind="far", flagged=11),
                HOSTILE: UnfamiliarSet(images=7, kind="near", flagged=0),
            },
            "classes": {
                HOSTILE: ClassAccuracy(images=12, student=0.5, undistilled=0.25),
                "cat": ClassAccuracy(images=13, student=0.375, teacher=0.75),
            },
            "cost": Cost(weights_bytes=1_540_000, milliseconds=3.21, machine="a CPU"),
        }
    )


def test_the_report_says_first_whether_distilling_has_paid(
    beside: Evaluation, evaluation: Evaluation, drawn: Illustrations
) -> None:
    html = report_html(beside, drawn)
    page = Page(html)
    assert page.open == []
    main = html[html.index("<main>") :]
    assert (
        0 < main.index('<p class="worth paid">Distilling has paid: overlap@10 0.450,') < 60
    )
    worse = beside.model_copy(
        update={"gains": {"overlap@10": Estimate(value=-0.1, low=-0.2, high=-0.05)}}
    )
    assert (
        '<p class="worth not-paid">Distilling has NOT paid: worse in overlap@10'
        in report_html(worse, drawn)
    )
    unknown = Page(report_html(evaluation, drawn))
    assert "Whether distilling has paid is not known" in unknown.text
    assert "undistilled" not in unknown.text
    assert "closed form" not in unknown.text


def test_the_report_sets_the_network_before_training_beside_the_student(
    beside: Evaluation, drawn: Illustrations
) -> None:
    page = Page(report_html(beside, drawn))
    for told in (
        "undistilled 0.200",  # the headline
        "undistilled 30.0\N{NO-BREAK SPACE}%",
        "0.187",  # of the closed form
        "+0.150",
        "11 of 15",
        "0 of 7",
        "1.54\N{NO-BREAK SPACE}MB of weights",
        "alone, in eager torch on a CPU",
    ):
        assert told in page.text, told
    assert page.text.index("37.5") < page.text.index("25.0")  # the worst class first
    assert all("scope" in cell for cell in page.named("th"))


def test_the_console_says_first_whether_distilling_has_paid(
    beside: Evaluation, evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    print_evaluation(beside, title="pets")
    shown = capsys.readouterr().out
    assert shown.startswith(
        "Distilling has paid: overlap@10 0.450, undistilled 0.300 (+0.1"
    )
    header = shown[shown.index("pets") :].splitlines()[2]
    columns = ["teacher", "undistilled", "closed form", "student"]
    places = [header.index(column) for column in columns]
    assert places == sorted(places)
    for told in ("0.376", "11 of 15"):
        assert told in shown
    print_evaluation(evaluation, title="pets")
    old = capsys.readouterr().out
    assert old.startswith("Whether distilling has paid is not known")
    assert "undistilled" not in old


def test_a_table_drops_its_intervals_where_they_would_be_broken_up(
    beside: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    print_fitting(lambda intervals: evaluation_table(beside, "pets", intervals=intervals))
    assert "95 % intervals" not in capsys.readouterr().out  # 80 columns
    assert "[0.850, 0.930]" in rendered(evaluation_table(beside, "pets"), width=140)
    assert "[0.850" not in rendered(evaluation_table(beside, "pets", intervals=False), 140)


def rendered(table: Table, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_map_without_classes_has_no_class_names(
    evaluation: Evaluation, drawn: Illustrations
) -> None:
    vectors = unit(np.random.default_rng(1), 30, 5)
    plain = replace(drawn, map=embedding_map(vectors, None, None), queries=())
    page = Page(report_html(evaluation, plain))
    (figure,) = (svg for svg in page.named("svg") if "Map of" in (svg["aria-label"] or ""))
    assert "30 test images and 0 unfamiliar" in (figure["aria-label"] or "")
    assert CLASSES[0] not in page.texts


def test_a_map_shows_every_point_once_and_is_the_same_again() -> None:
    generator = np.random.default_rng(2)
    near = unit(generator, 40, 8)
    labels = np.repeat([0, 1], 20)
    near[labels == 1] += 3
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    found = embedding_map(near, None, labels, unit(generator, 9, 8), classes=("a", "b"))
    again = embedding_map(near, None, labels, unit(generator, 9, 8), classes=("a", "b"))
    assert found.student.shape == (49, 2)
    assert np.array_equal(found.labels, [*labels, *[UNFAMILIAR] * 9])
    assert np.array_equal(again.labels, found.labels)
    first, second = found.student[:20], found.student[20:40]
    apart = np.linalg.norm(first.mean(axis=0) - second.mean(axis=0))
    spread = np.linalg.norm(second - second.mean(axis=0), axis=1).mean()
    assert apart > spread  # the tight class is a group of its own
    assert embedding_map(near[:3], None, None).student.shape == (3, 2)


def test_a_large_map_is_bounded_and_gives_ten_of_many_classes_more_points() -> None:
    from distill.report import illustrations

    generator = np.random.default_rng(3)
    labels = np.arange(9000) % 100
    chosen = illustrations._choose_familiar(generator, labels, 1000)
    assert len(np.unique(chosen)) == len(chosen) == 1000
    counts = np.sort(np.bincount(labels[chosen], minlength=100))
    assert counts[:90].max() < counts[90:].min()
    assert counts[90:].sum() == 333


def test_sampled_cosines_are_cosines_and_half_of_them_are_near() -> None:
    generator = np.random.default_rng(4)
    bank, test = unit(generator, 200, 16), unit(generator, 30, 16)
    rotation = np.linalg.qr(generator.normal(size=(16, 16)))[0].astype(np.float32)
    pairs = sample_cosines(test, bank, test @ rotation, bank @ rotation)
    assert len(pairs.teacher) == 4000
    assert np.allclose(pairs.teacher, pairs.student, atol=1e-5)
    tenth = np.sort(test @ bank.T, axis=1)[:, -10].min()
    assert pairs.teacher[1::2].min() >= tenth - 1e-6
    assert pairs.teacher[::2].mean() == pytest.approx((test @ bank.T).mean(), abs=0.02)


def test_queries_run_from_worst_to_best_kept_and_neighbours_from_the_nearest() -> None:
    generator = np.random.default_rng(5)
    bank, test = unit(generator, 50, 8), unit(generator, 20, 8)
    noisy = bank + 0.3 * unit(generator, 50, 8)
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)

    def picture(place: int) -> Picture:
        return Picture(index=place, pixels=np.zeros((4, 4, 3), dtype=np.uint8))

    queries = sample_queries(
        test, noisy, test, bank, test_picture=picture, bank_picture=picture
    )
    shared = []
    for query in queries:
        assert query.teacher is not None
        theirs = [neighbour.index for neighbour in query.teacher]
        ours = [neighbour.index for neighbour in query.student]
        cosines = test[query.image.index] @ bank.T
        assert theirs == list(np.argsort(-cosines)[:8])
        shared.append(len(set(ours) & set(theirs)))
    assert len(queries) == 6
    assert shared == sorted(shared)
    assert shared[0] < shared[-1]


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.25, 0.9])
def test_the_threshold_drawn_is_the_decision_made(alpha: float) -> None:
    generator = np.random.default_rng(6)
    drawn = generator.integers(0, 30, 59) / 10  # with ties
    calibration = Calibration.from_scores(drawn, alpha)
    scores = np.linspace(-1, 4, 51).round(1)
    expected = calibration.is_ood(scores)
    assert expected.any()
    assert np.array_equal(scores > calibration.threshold, expected)


def test_matplotlib_waits_until_a_report_is_written() -> None:
    check = (
        "import sys, distill.report; "
        "sys.exit(any(name in sys.modules for name in ('matplotlib', 'jinja2', 'sklearn')))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_long_runs_have_curves_without_markers() -> None:
    terms = tuple({"feature": 1 / (1 + epoch)} for epoch in range(30))
    (curve,) = training_curves(terms)
    assert "over 30 epochs" in curve
