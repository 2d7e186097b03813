"""Collects sentences in eleven languages from the manual pages and messages of Debian's `passwd` and `login` packages.

    python collect.py --out corpus ex-passwd ex-login

The arguments are folders of unpacked packages (`dpkg -x`). Writes corpus/train.tsv and corpus/held_out.tsv, lines of
label<TAB>sentence, and prints the counts. Python's standard library only; no randomness, so the output depends on the
packages alone.

The split is by manual page: the pages in HELD_OUT are held out in every language. The programs' messages, which give
the languages with few translated pages enough text, are split by their English original, one in four held out in every
language. A held-out sentence that also occurs in training text (compared without command names, digits and
punctuation) is dropped.
"""

import argparse
import fnmatch
import gettext
import gzip
import re
import unicodedata
import zlib
from pathlib import Path

LANGUAGES = "en de fr it pl sv tr ru uk ja zh_CN".split()
HELD_OUT = {"usermod.8", "groupadd.8", "userdel.8", "passwd.5", "vipw.8", "expiry.1"}
HELD_OUT_MESSAGES = 4  # one message in so many
HELD_OUT_LIMIT = 60  # sentences per language
SHORTEST = {"ja": 8, "zh_CN": 8}  # characters; a character of these scripts says as much as two or three letters
SHORTEST_LETTERS, LONGEST = 20, 200

# ---- roff to paragraphs ----

ACCENTS = {":": "\u0308", "'": "\u0301", "`": "\u0300", "^": "\u0302", ",": "\u0327", "~": "\u0303"}
GLYPHS = {
    "ss": "ß", "oa": "å", "oA": "Å", "/l": "ł", "/L": "Ł", "Fo": "«", "Fc": "»", "Bq": "„", "lq": "“", "rq": "”",
    "en": "–", "em": "—", "aq": "'", "aa": "´", "bu": "",
}
ESCAPE = re.compile(
    r"""\\(?: [hwv]'[^']*'                # motions and widths
        | f(?:\(..|\[[^\]]*\]|.)          # fonts
        | s[-+]?\d                        # sizes
        | n(?:\(..|\[[^\]]*\]|.)          # registers
        | \*(?:\((?P<string>..)|.)        # strings
        | \((?P<glyph>..)
        | (?P<char>.) )""",
    re.VERBOSE,
)
BREAKS = {"SH", "SS", "PP", "P", "LP", "TP", "IP", "HP", "RS", "RE", "sp", "br", "nf", "fi", "TS", "TE", "in", "DS", "DE"}
FONTS = {"B", "I", "BR", "IR", "RB", "BI", "IB", "RI", "SM"}


def unescape(text):
    def plain(match):
        if match["string"]:
            return "'" if match["string"] == "Aq" else ""
        if glyph := match["glyph"]:
            if glyph in GLYPHS:
                return GLYPHS[glyph]
            return unicodedata.normalize("NFC", glyph[1] + ACCENTS[glyph[0]])
        return {"-": "-", " ": " ", "~": " ", "0": " ", "e": "\\", ".": ".", "'": "'"}.get(match["char"], "")

    return ESCAPE.sub(plain, text)


def arguments(text):
    return [quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|((?:\\ |\S)+)', text)]


def paragraphs(source):
    """The running text of a page: no headings, tags, synopses, displays or tables."""
    lines, skip_until, drop, tag_next = [], None, False, False
    for line in source.splitlines() + [".PP"]:
        line = re.sub(r'\\".*', "", line)
        request = re.match(r"[.'][ \t]*([A-Za-z]*)[ \t]*(.*)", line)
        name = request[1] if request else None
        if skip_until:
            if name == skip_until:
                skip_until = None
            continue
        if request and name in FONTS:
            words = arguments(request[2])
            line, request = (" " if len(name) == 1 else "").join(words), None
        if request or not line.strip():
            if name in BREAKS or not request:
                if lines and not drop:
                    yield re.sub(r"\s+", " ", unescape(" ".join(lines))).strip()
                lines, drop = [], name == "HP"
            tag_next = name == "TP"
            skip_until = {"nf": "fi", "TS": "TE", "DS": "DE"}.get(name)
        elif tag_next:
            tag_next = False
        else:
            lines.append(line.strip())


# ---- paragraphs to sentences ----

WIDE = r"[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]"
NON_LATIN = {"ru", "uk", "ja", "zh_CN"}
STOP_WORDS = {"the", "of", "and", "is", "be", "with", "for", "this", "will", "to", "are", "which"}


def sentences(paragraph):
    paragraph = re.sub(rf"(?<={WIDE}) (?={WIDE})", "", paragraph)  # lines of one paragraph join without a space
    paragraph = re.sub(r"^[\w., /-]{1,60} - ", "", paragraph)  # "name - what it does"
    for part in re.split(r"(?<=[。！？])|(?<=[.!?:])[)\"'”»]?\s+(?=[^\W\d_a-z])", paragraph):
        yield part.strip(" •·*")


def words(sentence):
    """Ordinary words: only letters, and not all capitals (those are variables and placeholders)."""
    return [word for word in re.findall(r"[\w/@.=-]+", sentence) if is_word(word.rstrip("."))]


def is_word(word):
    return word.isalpha() and (word.isascii() is False or word.capitalize() == word or word.islower())


def acceptable(sentence, language):
    shortest = SHORTEST.get(language, SHORTEST_LETTERS)
    if not shortest <= len(sentence) <= LONGEST or re.search(r"[@%\[\]{}|<>]|://", sentence):
        return False
    ink = [c for c in sentence if not c.isspace()]
    if language in NON_LATIN:  # mostly ASCII: untranslated, or a list of names
        return sum(c.isalpha() and not c.isascii() for c in ink) >= 0.6 * len(ink)
    plain = words(sentence)
    if len(plain) < 2 or sum(map(len, plain)) < 0.6 * len(ink):
        return False
    return language == "en" or len(STOP_WORDS.intersection(word.lower() for word in plain)) < 2


def key(sentence, commands):
    """What two sentences are compared by: their letters, without the names of commands."""
    return "".join(word for word in re.findall(r"[^\W\d_]+", sentence.casefold()) if word not in commands)


# ---- packages to texts ----


def stanzas_of(package):
    """(file patterns, licence) for each Files stanza of the package's machine-readable copyright file."""
    found = []
    for path in package.glob("usr/share/doc/*/copyright"):
        for stanza in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
            fields = re.findall(r"^(\S+):((?:.*)(?:\n[ \t].*)*)", stanza, re.MULTILINE)
            fields = {name: value.split() for name, value in fields}
            if "Files" in fields:
                found.append((fields["Files"], fields["License"][0]))
    return found


def is_bsd(source_file, stanzas):
    """Whether the copyright file puts a file of the source package under BSD-3-Clause; the last match counts."""
    licences = [licence for globs, licence in stanzas if any(fnmatch.fnmatchcase(source_file, g) for g in globs)]
    return licences[-1] == "BSD-3-clause"


def pages(package, language):
    """(is held out, paragraphs) of each manual page of a language."""
    stanzas = stanzas_of(package)
    folder = package / "usr/share/man" / ("" if language == "en" else language)
    for path in sorted(folder.glob("man[0-9]/*.gz")):
        if path.is_symlink():
            continue
        page = path.relative_to(package / "usr/share").with_suffix("").as_posix()
        source = gzip.decompress(path.read_bytes()).decode("utf-8")
        if not is_bsd(page, stanzas) or re.search("general public license", source, re.IGNORECASE):
            print(f"skipped, not BSD-3-Clause: {page}")
            continue
        yield path.stem in HELD_OUT, list(paragraphs(source))


def messages(package, language):
    """(is held out, [message]) of each translated program message. The catalogues are under BSD-3-Clause; the English
    originals belong to the sources, not all of which are, so there are none for English."""
    stanzas = stanzas_of(package)
    for path in package.glob(f"usr/share/locale/{language}/LC_MESSAGES/*.mo"):
        assert is_bsd(f"po/{language}.po", stanzas)
        with open(path, "rb") as file:
            catalogue = gettext.GNUTranslations(file)._catalog
        for original, text in catalogue.items():
            original = original[0] if isinstance(original, tuple) else original  # (original, plural form)
            text = re.sub(r"^\s*-.*?\s{2,}", "", text)  # "  -h, --help     what it does"
            text = re.sub(r"^(\s*%\w+\s*[:：]\s*)+|:?\s*%\w+\s*$", "", re.sub(r"\s+", " ", text))  # "program: what: why"
            text = re.sub(r"%l?[du]", "12", re.sub(r"%(\d\$)?s", "games", text))  # as the program would show it
            if original:  # the empty one is the catalogue's header
                yield zlib.crc32(original.encode()) % HELD_OUT_MESSAGES == 0, [text.strip()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="+", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    commands = {path.name.split(".")[0] for package in args.packages for path in package.glob("usr/share/man/man?/*")}
    english, train, held_out, table = set(), [], [], []
    for language in LANGUAGES:  # English first: what is still English in another language is not translated
        texts = [text for read in (pages, messages) for package in args.packages for text in read(package, language)]
        parts = {False: {}, True: {}}  # by "is held out", key -> sentence: in order, without repeats
        for is_held_out, text in texts:
            for sentence in (sentence for paragraph in text for sentence in sentences(paragraph)):
                k = key(sentence, commands)
                if language == "en":
                    english.add(k)
                elif k in english:
                    continue
                if acceptable(sentence, language):
                    parts[is_held_out].setdefault(k, sentence)
        known = parts[False]
        unseen = [sentence for k, sentence in parts[True].items() if k not in known]
        step = max(1.0, len(unseen) / HELD_OUT_LIMIT)  # evenly spaced, so that every page is represented
        chosen = [unseen[int(i * step)] for i in range(min(len(unseen), HELD_OUT_LIMIT))]
        train += [(language, sentence) for sentence in known.values()]
        held_out += [(language, sentence) for sentence in chosen]
        table.append((language, len(texts), len(known), sum(map(len, known.values())), len(unseen), len(chosen)))

    args.out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("held_out", held_out)):
        text = "".join(f"{language}\t{sentence}\n" for language, sentence in rows)
        (args.out / f"{name}.tsv").write_text(text, encoding="utf-8")
    print(f"{'':<6} {'texts':>6} {'train':>6} {'chars':>7} {'unseen':>7} {'held out':>9}")
    for row in table:
        print("{:<6} {:>6} {:>6} {:>7} {:>7} {:>9}".format(*row))


if __name__ == "__main__":
    main()
