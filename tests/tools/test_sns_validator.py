"""AWS' own validator of SNS messages (npm: sns-validator) and ours, over the same envelopes: they must agree."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from heliograph.actors.ports.receipts import Genuine
from heliograph.providers.ses.receipts import SesReceipts
from tests.support.sns import CERTIFICATE, TOPIC, Sns, called

pytestmark = pytest.mark.tools

PACKAGE: Final = "sns-validator@0.3.5"
SCRIPT: Final = """
const https = require('https');
const [folder, certificate] = process.argv.slice(2);
https.get = (url, answer) => {
  const ears = {};
  answer({ statusCode: 200, on(name, hear) { ears[name] = hear; return this; } });
  ears.data(Buffer.from(require('fs').readFileSync(certificate)));
  ears.end();
  return { on() {} };
};
const Validator = require(folder + '/node_modules/sns-validator');
const said = [];
for (const envelope of JSON.parse(require('fs').readFileSync(0))) {
  new Validator().validate(envelope, (error) => said.push(!error));
}
console.log(JSON.stringify(said));
"""


def theirs(folder: Path, sns: Sns, envelopes: list[dict[str, Any]]) -> list[bool]:
    """What AWS' validator says of each."""
    install = ["npm", "install", "--prefix", str(folder), "--no-save", "--ignore-scripts", "--no-audit", PACKAGE]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    script, certificate = folder / "validate.js", folder / "certificate.pem"
    script.write_text(SCRIPT)
    certificate.write_text(sns.certificate())
    command = ["node", str(script), str(folder), str(certificate)]
    ran = subprocess.run(command, input=json.dumps(envelopes), check=True, capture_output=True, text=True, timeout=60)
    answers: list[bool] = json.loads(ran.stdout)
    return answers


def test_awss_own_validator_agrees_on_what_is_genuine(tmp_path: Path) -> None:
    sns = Sns()
    good = [
        sns.envelope({"eventType": "Send", "text": text}, kind, version, **more)
        for text in ("plain", "नमस्ते 🎉", "two\nlines")
        for version in ("1", "2")
        for kind, more in (
            ("Notification", {}),
            ("Notification", {"Subject": "Amazon SES Email Event Notification"}),
            ("SubscriptionConfirmation", {}),
        )
    ]
    first = good[0]
    bad = [
        *({**first, name: "changed"} for name in ("Message", "MessageId", "Timestamp", "TopicArn")),
        {**first, "SignatureVersion": "2"},
        {**first, "SignatureVersion": "3"},
        {**first, "Signature": good[1]["Signature"]},
        {**first, "SigningCertURL": "https://sns.ap-south-1.amazonaws.com.example.org/x.pem"},
        Sns().envelope({"eventType": "Send"}),
    ]
    reader = SesReceipts(topics=frozenset({TOPIC}))
    known = {CERTIFICATE: sns.certificate()}
    ours = [reader.verify(called(envelope), known) == Genuine() for envelope in (*good, *bad)]
    assert ours == [True] * len(good) + [False] * len(bad)
    assert theirs(tmp_path, sns, [*good, *bad]) == ours
