"""Size counts every weight and byte, an adapter's base included."""


def test_an_adapter_weighs_its_base_too(workshop):
    base = workshop.model()
    adapted = workshop.run(
        "sft", base, workshop.rows({"prompt": "a", "completion": "b"}), steps=1, adapter={"lora": {"rank": 2}}
    )
    found = {m.form: workshop.findings("size", m).metrics for m in (base, adapted)}
    on_disk = sum(file.stat().st_size for file in base.path.iterdir())
    assert found["dense"]["bytes"].value == on_disk
    assert found["adapter"]["bytes"].value > on_disk
    assert found["adapter"]["weights"].value - found["dense"]["weights"].value == adapted.facts["trained_weights"]


def test_a_manifest_is_no_part_of_a_model(workshop):
    """It names the run and the machine, and the same model weighs the same wherever it was made."""
    tuned = workshop.run("sft", workshop.model(), workshop.rows({"prompt": "a", "completion": "b"}), steps=1)
    assert workshop.findings("size", tuned).metrics["bytes"].value == tuned.bytes


def test_of_several_files_the_one_that_is_measured_counts(workshop):
    made = workshop.run("gguf", workshop.store.model("lab"), types=["q8_0", "q4_0"], compare="never")
    files = {name: made.files[name].bytes for name in ("model-Q8_0.gguf", "model-Q4_0.gguf")}
    assert workshop.findings("size", made).metrics["bytes"].value == made.bytes - files["model-Q8_0.gguf"]
