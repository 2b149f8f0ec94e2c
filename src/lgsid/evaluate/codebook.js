"use strict";
(() => {
  const box = document.getElementById("search");
  const said = document.getElementById("found");
  const groups = [...document.querySelectorAll("details.group")].map((node) => ({
    node, tokens: [...node.querySelectorAll("details.token")].map((token) => ({ node: token, text: token.textContent.toLowerCase() })),
  }));
  const search = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const group of groups) {
      let here = 0;
      for (const token of group.tokens) {
        const fits = words.every((word) => token.text.includes(word));
        token.node.hidden = !fits;
        here += fits;
      }
      group.node.hidden = here === 0;
      group.node.open = words.length > 0 && here > 0;
      found += here;
    }
    said.textContent = words.length ? `${found.toLocaleString("en")} token${found === 1 ? "" : "s"}` : "";
  };
  const reveal = () => {
    const target = document.getElementById(location.hash.slice(1));
    if (!target || !target.matches("details.token")) return;
    for (let node = target; node; node = node.parentElement) {
      node.hidden = false;
      if (node.tagName === "DETAILS") node.open = true;
    }
    target.scrollIntoView({ block: "center" });
  };
  let waiting = 0;
  box.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(search, 120); });
  addEventListener("hashchange", reveal);
  document.querySelector(".search").hidden = false;
  if (box.value) search();
  reveal();
})();
