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
