"""Numbers with their nouns, as they are read."""


def counted(number: int, noun: str) -> str:
    """`1 image`, `2 images`, `0 boxes`; nouns whose plural this does not know stay: `2 人`."""
    if number == 1 or not (noun.isascii() and noun.replace(" ", "").isalpha()):
        return "%d %s" % (number, noun)
    if noun.endswith(("s", "x", "ch", "sh")):
        return "%d %ses" % (number, noun)
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return "%d %sies" % (number, noun[:-1])
    return "%d %ss" % (number, noun)
