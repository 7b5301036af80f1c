"""Makes `people.csv`: 10,000 messages as a shop would send them. Seeded, so that it makes the same file each time.

    python -m tests.data.make_people tests/data/people.csv

Half SMS, half email; Indian and international numbers; names and texts in several scripts; three priorities; one in a
hundred goes to a recipient that the stand-in providers of the main job refuse (`refused…@`, numbers ending in 0404).
"""

from __future__ import annotations

import csv
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import phonenumbers
from phonenumbers import PhoneNumberType

COUNT: Final = 10_000
REFUSED_EVERY: Final = 100
TAKE_SMS: Final = (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE_OR_MOBILE)
FIELDS: Final = ("channel", "to", "priority", "category", "subject", "text", "tags")

INDIAN: Final = (
    "Aarav Sharma", "Ananya Iyer", "Vihaan Reddy", "Diya Nair", "Kabir Singh", "Meera Krishnan", "Arjun Patel",
    "Ishaan Gupta", "Saanvi Rao", "Rohan Mehta", "Priya Banerjee", "Aditya Kulkarni", "Kavya Menon", "Zoya Khan",
    "Harpreet Kaur", "Lakshmi Subramaniam", "Nikhil Joshi", "Tara D’Souza", "Farhan Qureshi", "Gauri Deshpande",
    "आरव शर्मा", "மீனா கிருஷ்ணன்", "ప్రియ రెడ్డి", "অনন্যা সেন",
)  # fmt: skip
ABROAD: Final = (
    ("Zoë Müller", "+49151", 8), ("Søren Ångström", "+4791", 6), ("Chloé Lefèvre", "+336", 8),
    ("Nguyễn Thị Hạnh", "+8491", 7), ("山田太郎", "+8190", 8), ("Ольга Иванова", "+7916", 7),
    ("Thabo Nkosi", "+2783", 7), ("Olivia Brown", "+447400", 6), ("José Núñez", "+3461", 7),
    ("Grace O’Neill", "+1415", 7), ("Wei Chen", "+6591", 6), ("Fatima Al-Sayed", "+97150", 7),
)  # fmt: skip
TEXTS: Final = (
    "Hello {name}, your order {order} has shipped and will be with you on Friday.",
    "Dear {name}, {code} is your code for Login. Do not share it with anyone.",
    "{name}, your table for two is booked for 19:30. See you soon!",
    "प्रिय {name}, आपका ऑर्डर {order} भेज दिया गया है।",
    "வணக்கம் {name}, உங்கள் ஆர்டர் {order} அனுப்பப்பட்டது.",
    "Bonjour {name}, votre commande {order} est prête ✓",
    "{name} さん、ご注文 {order} を発送しました。",
)
SUBJECTS: Final = (
    "Your order {order}",
    "आपका ऑर्डर {order}",
    "Votre commande {order} est prête",
    "Ihre Bestellung {order}",
)
DOMAINS: Final = ("mailbox.example.com", "post.example.net", "inbox.example.org")


def main(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows(random.Random(20261125)))


def rows(chance: random.Random) -> Iterator[dict[str, str]]:
    for number in range(COUNT):
        refused = number % (2 * REFUSED_EVERY) in (50, 151)  # an SMS and an email of each two hundred
        yield (_email if number % 2 else _sms)(chance, number, refused=refused)


def _sms(chance: random.Random, number: int, *, refused: bool) -> dict[str, str]:
    if refused or chance.random() < 0.7:
        name, start, digits = chance.choice(INDIAN), "+91", 10
    else:
        name, start, digits = chance.choice(ABROAD)
    while True:
        ending = "0404" if refused else f"{chance.randrange(1000, 10000)}"
        to = start + f"{chance.randrange(10 ** (digits - 4)):0{digits - 4}d}" + ending
        if phonenumbers.number_type(phonenumbers.parse(to)) in TAKE_SMS:
            return _row(chance, number, "sms", to, name)


def _email(chance: random.Random, number: int, *, refused: bool) -> dict[str, str]:
    name = chance.choice([*INDIAN, *(n for n, _, _ in ABROAD)])
    local = f"refused{number}" if refused else f"customer{number}"
    return _row(chance, number, "email", f"{local}@{chance.choice(DOMAINS)}", name)


def _row(chance: random.Random, number: int, channel: str, to: str, name: str) -> dict[str, str]:
    priority = chance.choices(("urgent", "normal", "bulk"), (1, 6, 3))[0]
    words = {"name": name, "order": f"HG-{number:05d}", "code": f"{chance.randrange(1000000):06d}"}
    return {
        "channel": channel,
        "to": to,
        "priority": priority,
        "category": "otp" if priority == "urgent" else "transactional",
        "subject": chance.choice(SUBJECTS).format(**words) if channel == "email" else "",
        "text": chance.choice(TEXTS).format(**words),
        "tags": f"main-job,{priority}",
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
