"""Names in a recipe become models and rows, or one sentence that says what to write instead."""

import gzip
import json
from pathlib import Path

import pytest

from posttrain.data.read import read
from posttrain.engine.method import Made
from posttrain.engine.store import Store
from posttrain.schema.artifacts import Dataset, Model
from posttrain.schema.errors import DataError, ModelError
from posttrain.schema.rows import Prompt, Text
from posttrain.schema.settings import Rows


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def model_folder(path: Path, weights: bytes = b"w", **config) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    (path / "model.safetensors").write_bytes(weights)
    return path


def test_a_hugging_face_folder_is_a_model(store: Store, tmp_path: Path):
    folder = model_folder(tmp_path / "m")
    (folder / "README.md").write_text("changes nothing")
    model = store.model(str(folder))
    assert (model.path, model.form, model.base) == (folder, "dense", None)
    assert sorted(model.files) == ["config.json", "model.safetensors"]
    (folder / "README.md").write_text("still nothing")
    assert store.model(str(folder)).digest == model.digest
    (folder / "model.safetensors").write_bytes(b"v")
    assert store.model(str(folder)).digest != model.digest


def test_big_files_are_read_once_until_they_change(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = model_folder(tmp_path / "m", weights=bytes(2_000_000))
    first = store.model(str(folder))
    read: list[str] = []
    from posttrain.engine import files

    original = files.entry
    monkeypatch.setattr(files, "entry", lambda path: read.append(path.name) or original(path))
    assert store.model(str(folder)).digest == first.digest
    assert read == ["config.json"]
    (folder / "model.safetensors").write_bytes(bytes(2_000_001))
    assert store.model(str(folder)).digest != first.digest
    assert "model.safetensors" in read


def test_a_broken_hash_cache_is_no_obstacle(store: Store, tmp_path: Path):
    folder = model_folder(tmp_path / "m", weights=bytes(2_000_000))
    first = store.model(str(folder))
    (store.root / "hashes.json").write_text("{torn")
    assert store.model(str(folder)).digest == first.digest


def test_quantised_and_adapter_folders_are_told_apart(store: Store, tmp_path: Path):
    assert store.model(str(model_folder(tmp_path / "q", quantization_config={"quant_method": "gptq"}))).form == "gptq"
    base = model_folder(tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "../base"}))
    (adapter / "adapter_model.safetensors").write_bytes(b"a")
    first = store.model(str(adapter))
    assert (first.form, first.base) == ("adapter", str(base))
    (base / "model.safetensors").write_bytes(b"other")
    assert store.model(str(adapter)).digest != first.digest, "an adapter on another base is another model"


def test_a_model_of_the_store_is_found_by_folder_and_by_digest(store: Store):
    def work(folder: Path, scratch: Path) -> Made:
        (folder / "model.safetensors").write_bytes(b"w")
        return Made()

    made = store.make("0" * 16, Model(Path(), "", method="sft"), work)
    assert store.model(str(made.path)) == store.model(made.digest[:8]) == made
    (made.path / "model.safetensors").write_bytes(b"v")
    with pytest.raises(ModelError, match=r"damaged.*Make it again"):
        store.model(str(made.path))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "neither config.json nor adapter_config.json.*or `lab`"),
        ({"config.json": "{}"}, "no weights. Put model.safetensors beside it"),
        ({"config.json": "{torn", "model.safetensors": ""}, "cannot be read as JSON"),
        ({"config.json": "[]", "model.safetensors": ""}, "no JSON object"),
        ({"adapter_config.json": "{}"}, "Set base_model_name_or_path"),
    ],
)
def test_a_folder_that_is_no_model_says_what_is_missing(store: Store, tmp_path: Path, files, message):
    (tmp_path / "m").mkdir()
    for name, text in files.items():
        (tmp_path / "m" / name).write_text(text)
    with pytest.raises(ModelError, match=message):
        store.model(str(tmp_path / "m"))


def test_a_missing_folder_names_its_neighbour(store: Store, tmp_path: Path):
    model_folder(tmp_path / "llama")
    with pytest.raises(ModelError, match="Did you mean 'llama'"):
        store.model(str(tmp_path / "lama"))
    with pytest.raises(ModelError, match="is a file"):
        store.model(str(tmp_path / "llama" / "config.json"))


def test_the_hub_without_a_network_is_one_clear_sentence(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"no folder and no artifact.*hf download some/model") as error:
        store.model("some/model")
    assert "\n" not in str(error.value)


def test_rows_come_from_a_file_a_folder_or_a_glob(store: Store, tmp_path: Path):
    for name in ("b.jsonl", "a.jsonl", "notes.md"):
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_text(f'{{"text": "{name}"}}\n')
    one = store.dataset(Rows(path=str(tmp_path / "data" / "a.jsonl")))
    assert (one.path, list(one.files)) == (tmp_path / "data", ["a.jsonl"])
    folder = store.dataset(Rows(path=str(tmp_path / "data")))
    globbed = store.dataset(Rows(path=str(tmp_path / "d*" / "*.jsonl")))
    assert list(folder.files) == list(globbed.files) == ["a.jsonl", "b.jsonl"]
    assert folder.digest == globbed.digest != one.digest


def test_columns_and_take_belong_to_the_digest(store: Store, tmp_path: Path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    path = str(tmp_path / "a.jsonl")
    whole = store.dataset(Rows(path=path))
    some = store.dataset(Rows(path=path, take=1))
    mapped = store.dataset(Rows(path=path, columns={"prompt": "q"}))
    assert len({whole.digest, some.digest, mapped.digest}) == 3
    assert (some.take, mapped.columns) == (1, {"prompt": "q"})


def test_missing_rows_say_where_to_look(store: Store, tmp_path: Path):
    (tmp_path / "alpaca.json").write_text("[]")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"Did you mean 'alpaca\.json'"):
        store.dataset(Rows(path=str(tmp_path / "alpca.json")))
    with pytest.raises(DataError, match="does not exist either"):
        store.dataset(Rows(path=str(tmp_path / "none" / "a.json")))
    with pytest.raises(DataError, match="No file fits"):
        store.dataset(Rows(path=str(tmp_path / "*.csv")))
    with pytest.raises(DataError, match="no file of rows"):
        store.dataset(Rows(path=str(tmp_path / "empty")))


def splits_folder(folder: Path) -> Path:
    for name in ("train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "test.jsonl.gz", "extra/dev.csv"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "text\na\n" if path.suffix == ".csv" else f'{{"text": "{name}"}}\n'
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return folder


def texts(data: Dataset) -> list[str]:
    return [row.text for row in read(data, Text).rows]


def test_a_split_of_a_folder_is_named_behind_a_number_sign(store: Store, tmp_path: Path):
    folder = splits_folder(tmp_path / "rows")
    train = store.dataset(Rows(path=f"{folder}#train"))
    assert texts(train) == list(train.files) == ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"]
    assert list(store.dataset(Rows(path=f"{folder}#test")).files) == ["test.jsonl.gz"]
    assert texts(store.dataset(Rows(path=f"{folder}#dev"))) == ["a"]
    some = store.dataset(Rows(path=f"{folder}#train:1"))
    assert texts(some) == ["train-00000-of-00002.jsonl"]
    assert some.digest != train.digest
    assert store.dataset(Rows(path=f"{folder}#train:9", take=1)).take == 1
    with pytest.raises(DataError, match=r"several splits: dev, test, train\. Name one of them: '.*rows#train'\."):
        store.dataset(Rows(path=str(folder)))
    with pytest.raises(DataError, match=r"has no split 'trian'\. Did you mean 'train'\?"):
        store.dataset(Rows(path=f"{folder}#trian"))


def test_a_number_sign_names_a_part_of_a_document_or_a_number_of_rows(store: Store, tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text('{"train": [{"text": "a"}, {"text": "b"}], "test": [{"text": "c"}]}')
    assert texts(store.dataset(Rows(path=f"{path}#test"))) == ["c"]
    assert texts(store.dataset(Rows(path=f"{path}#train:1"))) == ["a"]
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"text": "a"}\n{"text": "b"}\n')
    assert texts(store.dataset(Rows(path=f"{lines}#:1"))) == ["a"]
    assert len(read(store.dataset(Rows(path="lab:word_map/test#:2")), Prompt).rows) == 2
    with pytest.raises(DataError, match=r"The lab has no rows 'word_map/test#train'"):
        store.dataset(Rows(path="lab:word_map/test#train"))
    odd = tmp_path / "b#train.jsonl"
    odd.write_text('{"text": "odd"}\n')
    assert texts(store.dataset(Rows(path=str(odd)))) == ["odd"], "a file that is there is not taken apart"


def test_a_split_that_several_sets_have_is_not_mixed_up(store: Store, tmp_path: Path):
    for name in ("main", "socratic"):
        splits_folder(tmp_path / name)
    with pytest.raises(DataError, match=r"has a split 'train' in 2 folders\. Name one of them: '.*main#train'\."):
        store.dataset(Rows(path=f"{tmp_path}#train"))


def test_what_datasets_saves_to_disk_is_read(store: Store, tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    rows = [{"prompt": str(n), "completion": "a", "meta": {"n": n} if n % 2 else None} for n in range(7)]
    train = datasets.Dataset.from_list(rows)
    train.save_to_disk(tmp_path / "one", num_shards=2)
    (tmp_path / "one" / "cache-1234.arrow").write_bytes((tmp_path / "one" / "data-00000-of-00002.arrow").read_bytes())
    assert [
        row.messages[0].content for row in read(store.dataset(Rows(path=str(tmp_path / "one"))), Prompt).rows
    ] == list("0123456")
    datasets.DatasetDict({"train": train, "test": train.select([2, 3])}).save_to_disk(tmp_path / "two")
    test = read(store.dataset(Rows(path=f"{tmp_path / 'two'}#test")), Prompt).rows
    assert [(row.messages[0].content, row.columns) for row in test] == [("2", {}), ("3", {"meta": {"n": 3}})]
    with pytest.raises(DataError, match="several splits: test, train"):
        store.dataset(Rows(path=str(tmp_path / "two")))


def test_a_data_set_of_the_hub_is_its_files_of_rows(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, str, list[str]]] = []

    def download(name: str, repo_type: str, allow_patterns: list[str]) -> str:
        asked.append((name, repo_type, allow_patterns))
        return str(splits_folder(tmp_path / "snapshot"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert texts(store.dataset(Rows(path="org/name#train:1"))) == ["train-00000-of-00002.jsonl"]
    assert texts(store.dataset(Rows(path="org/name/extra"))) == ["a"]
    (first, second) = asked
    assert first[:2] == second[:2] == ("org/name", "dataset")
    assert {"*train*.parquet", "*train*.jsonl.gz", "*state.json"} <= set(first[2])
    assert {"extra/**.csv", "extra/*state.json"} <= set(second[2])
    assert not any(pattern.endswith((".py", ".md", ".bin")) for pattern in first[2])


def test_the_hub_of_data_without_a_network_is_one_clear_sentence(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match=r"no file, folder or artifact.*hf download --repo-type dataset some/rows`"
    ) as error:
        store.dataset(Rows(path="some/rows#train"))
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="not read over a network"):
        store.dataset(Rows(path="s3://bucket/rows.jsonl"))
    with pytest.raises(DataError, match=r"There is no file 'data/rows\.jsonl'"):
        store.dataset(Rows(path="data/rows.jsonl"))


def test_every_option_of_reading_belongs_to_the_digest_and_reaches_the_rows(store: Store, tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("1,2\nhi,hello\n")
    plain = store.dataset(Rows(path=str(path)))
    options = {
        "columns": {"prompt": 1, "completion": 2},
        "header": False,
        "where": {"1": ["hi", "ho"], "2": {"min": 1}},
        "min_chars": 2,
        "max_chars": 90,
        "deduplicate": "near",
        "on_bad_row": "skip",
        "weight": 2.0,
        "epochs": 3.0,
        "take": 5,
    }
    assert set(options) == set(Rows.model_fields) - {"path"}
    digests = {
        store.dataset(Rows.model_validate({"path": str(path), name: value})).digest for name, value in options.items()
    }
    assert len(digests | {plain.digest}) == len(options) + 1
    whole = store.dataset(Rows.model_validate({"path": str(path), **options}))
    assert whole.columns == {"prompt": "1", "completion": "2"}
    assert whole.reading() == Rows.model_validate({"path": "a", **options}).reading()


def test_rows_of_a_stage_are_found_by_digest(store: Store):
    def work(folder: Path, scratch: Path) -> Made:
        (folder / "rows.jsonl").write_text("{}\n")
        return Made()

    made = store.make("0" * 16, Dataset(Path(), "", method="sample"), work)
    assert store.dataset(Rows(path=made.digest)) == store.dataset(Rows(path=str(made.path))) == made


def test_rows_of_the_lab_are_written_once_per_version(store: Store, monkeypatch: pytest.MonkeyPatch):
    from posttrain import lab

    first = store.dataset(Rows(path="lab:word_map/test"))
    (name,) = first.files
    lines = (first.path / name).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == lab.rows("word_map/test")
    with monkeypatch.context() as patched:
        patched.setattr(lab, "rows", lambda name: pytest.fail("was made twice"))
        assert store.dataset(Rows(path="lab:word_map/test")) == first
    monkeypatch.setattr(lab, "VERSION", lab.VERSION + 1)
    assert store.dataset(Rows(path="lab:word_map/test")).path != first.path
    with pytest.raises(DataError, match=r"The lab has no rows 'word_map/tset'. Did you mean 'word_map/test'\?"):
        store.dataset(Rows(path="lab:word_map/tset"))


def test_the_lab_is_a_model(store: Store):
    model = store.model("lab")
    assert (model.form, model.base) == ("dense", None)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(model.files)
    assert store.model(str(model.path)) == model


def test_a_name_that_is_nearly_lab_is_recognised(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="Did you mean 'lab'"):
        store.model("lba")


def test_rows_given_in_python_stand_in_the_recipe_as_they_are_read(store: Store, tmp_path: Path):
    from posttrain.pipeline.calls import plain

    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.jsonl").write_text('{"text": "a", "lang": "en"}\n')
    said = {"where": {"lang": "en"}, "on_bad_row": "skip"}
    data = store.dataset(Rows.model_validate({"path": str(tmp_path / "rows"), **said}))
    assert plain(data) == {"path": str(tmp_path / "rows"), **said}
    assert store.dataset(Rows.model_validate(plain(data))) == data
