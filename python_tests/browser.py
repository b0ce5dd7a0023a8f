"""Pages and timelines in a real browser: Debian's Chromium, without a window."""

import contextlib

from playwright.sync_api import sync_playwright

# As root there is no sandbox, and nothing is to be asked of the network.
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@contextlib.contextmanager
def page(**settings):
    """A page of a new browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=OPTIONS)
        try:
            yield browser.new_page(**settings)
        finally:
            browser.close()
