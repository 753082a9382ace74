"""Lists in every layout become entries; bad lines are named."""

import os
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdfl_jax.data.lists import Rejected, nothing_usable, read_list, repeated
from sdfl_jax.errors import InputError


@pytest.fixture
def listed(tmp_path):
    def write(text, **options):
        path = tmp_path / "paths.txt"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_list(path, **{"root": "/r", **options})

    return write


def fields(entry):
    return entry.image, entry.mask, entry.edge, entry.label


BOTH = [
    ("/r/a.jpg", "/r/m.png", "/r/e.png", 1),
    ("/abs/b.jpg", None, None, 0),
]


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg m.png e.png 1\n/abs/b.jpg None None 0\n",
        "a.jpg\tm.png\te.png\t1\r\n\r\n/abs/b.jpg\tNone\tnone\t0",
        "a.jpg,m.png,e.png,1\n/abs/b.jpg,None,,0\n",
        "\ufeffimage,mask,edge,label\na.jpg,m.png,e.png,1\n/abs/b.jpg,,,0\n",
        "label\tedge\tmask\timage\n1\te.png\tm.png\ta.jpg\n0\t\t\t/abs/b.jpg\n",
        '"image","mask","edge","label"\n"a.jpg","m.png","e.png","1"\n"/abs/b.jpg","","","0"',
        '"a.jpg","m.png","e.png","1"\n"/abs/b.jpg","None","","0"',
        "image;mask;edge;label\na.jpg;m.png;e.png;1\n/abs/b.jpg;None;;0",
        "a.jpg;m.png;e.png;1\n/abs/b.jpg;;;0",
        "sep=;\r\nimage;mask;edge;label\r\na.jpg;m.png;e.png;1\r\n/abs/b.jpg;;;0\r\n",
        "image | mask | edge | label\na.jpg | m.png | e.png | 1\n/abs/b.jpg | | | 0",
        "a.jpg, m.png, e.png, 1\n/abs/b.jpg, None, None, 0",
        "image mask edge label\na.jpg m.png e.png 1\n/abs/b.jpg None None 0\n",
        ",image,mask,edge,label\n0,a.jpg,m.png,e.png,1\n1,/abs/b.jpg,,,0\n",
        "0,a.jpg,m.png,e.png,1\n1,/abs/b.jpg,,,0\n",
        "7 a.jpg m.png e.png 1\n9 /abs/b.jpg None None 0\n",
        "image,mask,edge,label\na.jpg,m.png,e.png,1.0\n/abs/b.jpg,nan,nan,0.0\n",
        "image,mask,edge,label\na.jpg,m.png,e.png,True\n/abs/b.jpg,,,False\n",
        "a.jpg m.png e.png fake\n/abs/b.jpg None None real\n",
        "a.jpg,m.png,e.png,Tampered\r/abs/b.jpg,,,authentic",
        "a.jpg m.png e.png 1\n/abs/b.jpg None None 0\n".encode("utf-16"),
        "a.jpg m.png e.png 1\n/abs/b.jpg None None 0\n".encode("utf-16-le"),
    ],
)
def test_layouts_say_the_same(listed, text):
    entries, rejected = listed(text)
    assert [fields(entry) for entry in entries] == BOTH and not rejected


@pytest.mark.parametrize("word", ["2", "-1", "01", "yes", "unknown", "0.5", "1e0", "١"])
def test_labels_of_no_plain_meaning_are_rejected(listed, word):
    entries, rejected = listed(f"image,label\na.jpg,0\nb.jpg,{word}\n")
    assert len(entries) == 1 and f"label {word!r}" in rejected[0].reason


def test_backslashes_part_folders_unless_a_name_holds_one(listed, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").touch()
    (tmp_path / "in\\b.jpg").touch()
    text = "in\\a.jpg in\\m.png 1\nin\\b.jpg None 0\nC:\\Data\\in\\a.jpg None 1\n"
    for old in ("C:\\Data", "C:/Data"):
        entries, _ = listed(text, root=tmp_path, replace=[f"{old}={tmp_path}"])
        assert [os.path.relpath(entry.image, tmp_path) for entry in entries] == [
            "in/a.jpg",
            "in\\b.jpg",
            "in/a.jpg",
        ]
        assert entries[0].mask == str(tmp_path / "in/m.png")


@pytest.mark.parametrize("encoding", ["cp1252", "gb18030", "shift_jis", "cp1251"])
def test_another_encoding_is_known_by_the_files_it_finds(
    listed, tmp_path, encoding, capsys
):
    name = {"cp1252": "été", "gb18030": "图像", "shift_jis": "がぞう", "cp1251": "фото"}
    name = f"{name[encoding]}.jpg"
    (tmp_path / name).touch()
    entries, _ = listed(f"{name} None 0\n".encode(encoding), root=tmp_path)
    assert os.path.exists(entries[0].image)
    told = capsys.readouterr().err
    assert f"read as {encoding}" in told and "tried: cp1252" in told


def test_letters_that_macos_takes_apart_are_found(listed, tmp_path):
    for form, other in (("NFC", "NFD"), ("NFD", "NFC")):
        (tmp_path / unicodedata.normalize(form, f"é{form}.jpg")).touch()
        name = unicodedata.normalize(other, f"é{form}.jpg")
        entries, _ = listed(f"{name} None 0\n", root=tmp_path)
        assert os.path.exists(entries[0].image)


def test_an_image_with_two_labels_is_rejected_by_line(listed):
    entries, rejected = listed(
        "image,label\na.jpg,1\nb.jpg,0\n./a.jpg,0\nb.jpg,0\na.jpg,1\n"
    )
    assert [entry.line for entry in entries] == [3, 5]
    told = {row.line: row.reason for row in rejected}
    assert told[2] == told[6] == "label 1, but 0 in line 4"
    assert told[4] == "label 0, but 1 in line 2"
    assert repeated(entries) == {5}


def test_a_list_of_no_use_names_what_it_looked_for_and_where_that_lies(tmp_path):
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "images" / "a.jpg").touch()
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "list.txt"
    path.write_text("/old/disk/set/images/a.jpg None 0\n")
    entries, _ = read_list(path)
    row = Rejected(line=1, path=entries[0].image, reason="no such file")
    message = str(nothing_usable(path, entries, [row]))
    assert message.startswith(f"{path}: none of 1 lines can be used; the first, line 1")
    assert "looked for /old/disk/set/images/a.jpg" in message
    assert f"{tmp_path}/set/images/a.jpg exists" in message


def test_three_columns_have_no_edge(listed):
    entries, _ = listed("a.jpg m.png 1\nb.jpg None 0\n")
    assert [fields(entry) for entry in entries] == [
        ("/r/a.jpg", "/r/m.png", None, 1),
        ("/r/b.jpg", None, None, 0),
    ]


def test_header_takes_any_order_and_needs_only_image_and_label(listed):
    entries, _ = listed("Label,Image,kind,group,source,note\n1,a.jpg,splice,g,s,x\n")
    one = entries[0]
    assert (one.kind, one.group, one.source) == ("splice", "g", "s")
    assert one.mask is None and one.line == 2
    assert listed("image,label\na.jpg,0\n")[0][0].label == 0


def test_paths_may_hold_blanks_between_tabs_and_commas(listed):
    assert listed("my a.jpg\tNone\t1\n")[0][0].image == "/r/my a.jpg"
    assert listed("my own a.jpg,None,1\n")[0][0].image == "/r/my own a.jpg"
    quoted = 'image,label\n"a, b.jpg",1\n'
    assert listed(quoted)[0][0].image == "/r/a, b.jpg"


def test_bad_lines_are_rejected_by_number_and_the_rest_goes_on(listed):
    entries, rejected = listed(
        "a.jpg None None 0\n"
        "b.jpg\n"
        "my c.jpg None None 1\n"
        "d.jpg None None 2\n"
        "None None None 1\n"
        "\n"
        "e.jpg None None 1\n"
    )
    assert [entry.line for entry in entries] == [1, 7]
    assert [row.line for row in rejected] == [2, 3, 4, 5]
    reasons = [row.reason for row in rejected]
    assert "1 column;" in reasons[0] and "blanks need tabs" in reasons[1]
    assert "label '2'" in reasons[2] and "no image" in reasons[3]


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg,1\nb.jpg,0\n",
        "a.jpg fake\nb.jpg real\n",
        "0\ta.jpg\t1\n1\tb.jpg\t0\n",
        "a.jpg,None,1,\nb.jpg,None,0,\n",
        '"a.jpg" "None" "1"\n"b.jpg"  "None" "0"\n',
        "image_path,label\na.jpg,1\nb.jpg,0\n",
        "Filename;Target\na.jpg;1\nb.jpg;0\n",
        "image,label\n\u200ba.jpg\u200b,1\nb.jpg\xa0,0\n",
    ],
)
def test_more_lists_of_plain_meaning(listed, text):
    entries, rejected = listed(text)
    assert [(e.image, e.label) for e in entries] == [("/r/a.jpg", 1), ("/r/b.jpg", 0)]
    assert not rejected


@pytest.mark.parametrize("label", ["255", "-1", "yes", "1e0"])
@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t", " "])
def test_a_label_of_unknown_meaning_is_named(listed, label, delimiter):
    line = delimiter.join(["a.jpg", "None", label])
    assert f"label {label!r}; 0 is" in listed(line)[1][0].reason


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-32", "cp850", "mac_roman"])
def test_more_encodings(listed, tmp_path, encoding):
    (tmp_path / "été.jpg").touch()
    (tmp_path / "b.jpg").touch()
    text = "image,label\nété.jpg,0\nb.jpg,1\n".encode(encoding)
    assert listed(text, root=None)[0][0].name == "été.jpg"


def test_addresses_and_home_folders_in_lists(listed, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    entries, rejected = listed("~/a.jpg None 0\nhttps://x.org/b.jpg None 0\n")
    assert [entry.image for entry in entries] == ["/home/me/a.jpg"]
    assert rejected[0].reason == "an address on the net; download it first"


def test_csv_line_that_ends_early_is_rejected(listed):
    entries, rejected = listed("image,mask,label\na.jpg,,1\nb.jpg\n")
    assert len(entries) == 1 and "label ''" in rejected[0].reason


def test_prefixes_are_replaced_before_the_root(listed):
    entries, _ = listed(
        "/old/a.jpg None 0\n/other/b.jpg None 0\nold/c.jpg None 0\n",
        replace=["/old/=/new/", "/other/="],
    )
    assert [e.image for e in entries] == ["/new/a.jpg", "/r/b.jpg", "/r/old/c.jpg"]
    with pytest.raises(InputError, match="OLD=NEW"):
        listed("a None 0", replace=["nothing"])


def test_relative_paths_count_from_the_list_by_default(listed, tmp_path):
    entries, _ = listed("sub/a.jpg None 0\n", root=None)
    assert entries[0].image == str(tmp_path / "sub/a.jpg")
    assert entries[0].name == "sub/a.jpg"


def test_names_stay_inside(listed):
    text = (
        "/r/x/a.jpg None 0\n/abs/b.jpg None 0\n../../c.jpg None 0\n./y/../d.jpg None 0"
    )
    names = [entry.name for entry in listed(text)[0]]
    assert names == ["x/a.jpg", "abs/b.jpg", "c.jpg", "d.jpg"]


def test_names_that_are_not_utf8_survive(listed, tmp_path):
    entries, _ = listed(b"\xff\xe9.jpg None 0\n")
    assert os.fsencode(entries[0].image) == b"/r/\xff\xe9.jpg"


@pytest.mark.parametrize(
    "content, reason",
    [
        ("", "is empty"),
        ("\n  \n", "is empty"),
        ("image,label\n", "no line"),
        (b"\x89PNG\0\0", "not a text file"),
        (b"PK\x03\x04\x14\0", "a spreadsheet or an archive"),
        ("<!DOCTYPE html><title>404", "a web page"),
        ('[["a.jpg", "m.png"]]', "JSON .sdfl data layouts imdlbenco_json"),
        ('{"image": "a.jpg"}', "JSON"),
    ],
)
def test_what_is_no_list_is_an_error(listed, content, reason):
    with pytest.raises(InputError, match=reason):
        listed(content)


def test_missing_list_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no such list"):
        read_list(tmp_path / "none.txt")


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([b"", b"image,label\n", b"image\tmask\tlabel\n", b"\xef\xbb\xbf"]),
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.sampled_from(
                [b"\n", b"\r", b",", b"\t", b" ", b'"', b"None", b"1", b"/"]
            ),
            st.just(b"x" * 140_000),
        ),
        max_size=12,
    ),
)
def test_any_bytes_are_a_list_or_one_line(tmp_path_factory, start, parts):
    path = tmp_path_factory.mktemp("any") / "list.txt"
    path.write_bytes(start + b"".join(parts))
    try:
        entries, rejected = read_list(path)
    except InputError as error:
        assert "\n" not in str(error)
        return
    assert entries or rejected
    assert all(entry.label in (0, 1) and entry.name for entry in entries)


@pytest.mark.parametrize("line", ["{},,,0", "{},0", "{} None 0"])
def test_absurdly_long_paths_are_rejected_lines(tmp_path, line):
    (tmp_path / "list.txt").write_text(line.format("x" * 200_000) + "\na.png None 0\n")
    entries, rejected = read_list(tmp_path / "list.txt")
    assert len(entries) + len(rejected) == 2
    assert entries[-1].name == "a.png"
