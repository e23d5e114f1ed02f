// Brings what has changed without moving the page: scroll, focus, open details and what is being typed stay.
(() => {
  const seconds = Number(document.body.dataset.live || 0);
  const live = document.getElementById("live");
  let timer = 0;
  const isBusy = () => {
    const at = document.activeElement;
    return document.hidden || (at && /^(INPUT|TEXTAREA|SELECT)$/.test(at.tagName)) || String(getSelection());
  };
  const path = (element) => element && element.id ? `#${CSS.escape(element.id)}` : element && element.getAttribute("href") ? `main a[href="${CSS.escape(element.getAttribute("href"))}"]` : "";
  async function refresh() {
    if (!isBusy()) {
      try {
        const here = new URL(location.href);
        here.searchParams.delete("said");
        const answer = await fetch(here, { headers: { accept: "text/html" } });
        const there = new DOMParser().parseFromString(await answer.text(), "text/html");
        const [now, next] = [document.querySelector("main"), there.querySelector("main")];
        if (answer.ok && next && !answer.redirected && !isBusy()) {
          const focused = now.contains(document.activeElement) ? path(document.activeElement) : "";
          const open = [...now.querySelectorAll("details")].map((one) => one.open);
          now.replaceChildren(...next.childNodes);
          now.querySelectorAll("details").forEach((one, place) => { one.open = open[place]; });
          if (focused) document.querySelector(focused)?.focus({ preventScroll: true });
          document.querySelector("footer time").replaceWith(there.querySelector("footer time"));
          if (!("live" in there.body.dataset)) clearInterval(timer);
        } else if (answer.redirected) location.reload();
        document.querySelector(".lost").hidden = answer.ok;
      } catch { document.querySelector(".lost").hidden = false; }
    }
  }
  function go(isLive) {
    clearInterval(timer);
    if (isLive) timer = setInterval(refresh, seconds * 1000);
    live.setAttribute("aria-pressed", String(isLive));
    live.textContent = isLive ? "Stop refreshing" : "Refresh by itself";
    sessionStorage.setItem("live", isLive ? "on" : "off");
  }
  if (seconds) {
    document.querySelector(".live").hidden = false;
    live.addEventListener("click", () => go(live.getAttribute("aria-pressed") !== "true"));
    go(sessionStorage.getItem("live") !== "off");
  }
  // A second click while the first is on its way would only be refused.
  document.addEventListener("submit", (event) => setTimeout(() => event.target.querySelectorAll("button").forEach((one) => { one.disabled = event.target.method === "post"; })));
})();
