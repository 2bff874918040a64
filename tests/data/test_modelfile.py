"""A Modelfile is read back as it was meant, or it is not written."""

import pytest

from posttrain.data.modelfile import Modelfile, read_modelfile
from posttrain.data.varied_texts import varied_texts
from posttrain.schema.errors import ModelError
from posttrain.schema.rows import Message


def test_what_is_written_is_what_is_read():
    said = (
        Message("user", 'a "b"\n\nc'),
        Message("assistant", "MESSAGE user no\n# no comment"),
        Message("user", 'a """ b'),
    )
    written = Modelfile(
        "model-Q8_0.gguf", "x\n{{ .Content }}\n", {"stop": ("\n", "<|end|>"), "temperature": ("0",)}, said
    )
    assert read_modelfile(written.text()) == Modelfile("./model-Q8_0.gguf", written.template, written.parameters, said)


def test_the_forms_that_people_write():
    text = '# a comment\nFROM ./m.gguf\n\nparameter temperature 0.5\nPARAMETER stop "<|a|>"\nTEMPLATE """one\ntwo"""\nMESSAGE user hello there\n'
    read = read_modelfile(text.removeprefix("# a comment\n"))
    assert read.parameters == {"temperature": ("0.5",), "stop": ("<|a|>",)}
    assert (read.template, read.messages) == ("one\ntwo", (Message("user", "hello there"),))


@pytest.mark.parametrize(
    "text", ['a line """\nand one', "a\u00a0b", "bell \x07", "zero\u200bwidth", "soft\u00adhyphen"]
)
def test_what_ollama_would_drop_is_refused(text):
    with pytest.raises(ModelError, match=r"Ollama would not read an example as it is.*take them out"):
        Modelfile("m.gguf", "{{ .Content }}", {}, (Message("user", text),)).text()


def test_varied_texts_are_read_back_or_refused():
    kept = 0
    for text in varied_texts():
        try:
            written = Modelfile(
                "m.gguf", "t", {"stop": ("s",)}, (Message("user", text), Message("assistant", "b"))
            ).text()
        except ModelError:
            continue
        kept += 1
        assert [message.content for message in read_modelfile(written).messages] == [text, "b"]
    assert kept > 60
