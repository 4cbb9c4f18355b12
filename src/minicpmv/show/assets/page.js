// Without this script the page lacks only the arrow keys: pointing and tapping are the style sheet's.
for (const sequence of document.querySelectorAll(".sequence")) {
  const select = (token) => {
    if (!token) return;
    token.tabIndex = -1;
    token.focus();
  };
  sequence.addEventListener("click", (event) => select(event.target.closest("[data-id]")));
  sequence.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const tokens = [...sequence.querySelectorAll("[data-id], summary")].filter((token) => token.checkVisibility());
    const now = tokens.indexOf(document.activeElement);
    const next = now < 0 ? (step > 0 ? 0 : tokens.length - 1) : now + step;
    if (tokens[next]) {
      event.preventDefault();
      if (tokens[next].matches("summary")) tokens[next].focus();
      else select(tokens[next]);
    }
  });
}
