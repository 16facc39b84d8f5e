"""Text files: documents in rows of bounded length."""

from tests.data.files import read


def test_line_ends_are_newlines():
    assert read("text", "a\r\nb\r") == [{"text": "a\nb\n"}]


def test_a_long_document_is_split_at_lines():
    text = "".join(f"{i}\n" for i in range(30_000))
    for document in (text, text.replace("\n", " "), text[: 1 << 16], text[: 1 + (1 << 16)], ""):
        rows = [row["text"] for row in read("text", document)]
        assert "".join(rows) == document and max(map(len, rows)) <= 1 << 16
        expected = []
        while len(document) > 1 << 16:
            end = document.rfind("\n", 0, 1 << 16) + 1 or 1 << 16
            expected, document = [*expected, document[:end]], document[end:]
        assert rows == [*expected, document]
