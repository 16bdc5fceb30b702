// JupyterLab's one-letter commands (d d deletes a cell) are not meant for who is on a button of ours. Its key handler
// passes over elements with this attribute (CommandRegistry in @lumino/commands), and asks the one with the focus
// first. What goes with Ctrl stays as it is.
function keepLetters(root) {
  const mark = (event) => {
    if (!root.contains(event.target)) return;
    const isLetter = event.key.length === 1 && !event.ctrlKey && !event.metaKey && !event.altKey;
    event.target.toggleAttribute("data-lm-suppress-shortcuts", isLetter);
  };
  window.addEventListener("keydown", mark, true); // before JupyterLab, which listens at the document
  return () => window.removeEventListener("keydown", mark, true);
}

