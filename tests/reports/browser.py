"""A page in a real browser, without a window: what it shows, and what it complains about."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

WATCH = """<script>
window.complaints = [];
addEventListener("error", event => complaints.push(String(event.message)));
addEventListener("securitypolicyviolation", event => complaints.push("blocked " + event.blockedURI));
for (const level of ["error", "warn"]) console[level] = (...what) => complaints.push(what.join(" "));
</script>"""

ASK = """<script>
const answer = (() => { try { return (() => { %s })(); } catch (error) { complaints.push(String(error)); } })();
const fetched = performance.getEntriesByType("resource").map(entry => entry.name).filter(name => !name.startsWith("data:"));
const outcome = document.createElement("pre");
outcome.id = "outcome";
outcome.textContent = JSON.stringify({answer, complaints, fetched});
document.body.replaceChildren(outcome);
</script>"""


def ask(page: Path, script: str) -> object:
    """Open a page, run the body of a JavaScript function in it and return what that returns.

    Fails if the page or the script raises an error, logs one, or asks for anything outside of itself.
    """
    text = page.read_text(encoding="utf-8")
    copy = page.with_name(f"asked-{page.name}")
    copy.write_text(text.replace("<head>", "<head>" + WATCH, 1).replace("</body>", ASK % script + "</body>", 1))
    arguments = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom"]
    data = f"--user-data-dir={page.parent / 'browser'}"
    done = subprocess.run([*arguments, data, copy.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="outcome">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    outcome = json.loads(html.unescape(found[1]))
    assert outcome["complaints"] == [] and outcome["fetched"] == []
    return outcome["answer"]
