"""Messages of customers to a shop, for `headstart demo --text`: made from phrases, so nothing has to be downloaded.

They show the flow, not the encoder: whoever writes the phrases decides how hard they are to tell apart.
"""

from __future__ import annotations

import csv
import io
import random

THINGS = (
    *("blue jacket", "kettle", "pair of boots", "desk lamp", "rucksack", "coffee grinder", "winter coat", "phone case"),
    *("garden chair", "toaster", "wool jumper", "set of knives", "bicycle helmet", "carpet", "headphones", "mirror"),
)
WHEN = (
    *("yesterday", "last Friday", "on Monday", "two weeks ago", "in March", "a month ago", "before the holidays"),
    *("on the 12th", "three days ago", "last night", "at the weekend", "this morning"),
)
BEFORE = ("", "", "", "Hello, ", "Hi there! ", "Good morning. ", "Excuse me, ", "Dear team, ", "Sorry to ask again: ")
AFTER = ("", "", "", " Thanks.", " Please help.", " Many thanks in advance!", " Can you let me know?", " Regards, Sam")
PHRASES = {
    "where is my order": (
        "where is the {thing} that I ordered {when}?",
        "my {thing} has not arrived, and I paid for it {when}",
        "the parcel with the {thing} should have come {when}, nothing so far",
        "tracking has not moved since {when}; is the {thing} lost?",
        "how long does delivery of a {thing} take? I bought it {when}",
    ),
    "return": (
        "I want to send the {thing} back that came {when}",
        "how do I return a {thing}? It was delivered {when}",
        "the {thing} does not fit, and I would like to give it back; it came {when}",
        "is it too late to return the {thing} from {when}?",
        "I need a label to post the {thing} back to you, bought {when}",
    ),
    "refund": (
        "I sent the {thing} back {when} and still wait for my money",
        "when will I be repaid for the {thing}? You got it {when}",
        "you promised {when} to refund the {thing}, my account shows nothing",
        "the amount that you paid back for the {thing} {when} is too small",
        "no refund on my card for the {thing} since {when}",
    ),
    "broken": (
        "the {thing} stopped working {when}",
        "a part of the {thing} broke off {when}, is there a guarantee?",
        "my new {thing} was cracked when I opened it {when}",
        "since {when} the {thing} makes an awful noise and smells burnt",
        "the {thing} arrived damaged {when}; the box was open",
    ),
    "cancel": (
        "please cancel the {thing} that I ordered {when}",
        "I ordered a {thing} by mistake {when}; stop it before it ships",
        "can I still call off my order of {when}? I don't need the {thing}",
        "I have found the {thing} cheaper elsewhere, so cancel what I ordered {when}",
        "take the {thing} off my order from {when}, I changed my mind",
    ),
    "address": (
        "I moved {when}: send the {thing} to my new address",
        "the address for the {thing} that I ordered {when} has the wrong house number",
        "can the {thing} from {when} go to my office instead of my home?",
        "I typed the wrong postcode {when}, please correct it for the {thing}",
        "change the place of delivery for the {thing}, I am away since {when}",
    ),
}
FIRST_BATCH, ALL = 900, 1100


def messages_csv(count: int) -> bytes:
    """The first so many messages, as a table of `text,label`; each length is the beginning of a longer one."""
    rng = random.Random(7)
    table = io.StringIO(newline="")
    rows = csv.writer(table)
    rows.writerow(["text", "label"])
    for _ in range(count):
        label = rng.choice(list(PHRASES))
        phrase = rng.choice(PHRASES[label]).format(thing=rng.choice(THINGS), when=rng.choice(WHEN))
        rows.writerow([f"{rng.choice(BEFORE)}{phrase}{rng.choice(AFTER)}", label])
    return table.getvalue().encode()
