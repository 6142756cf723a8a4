/* ---- a card: the image, and beside it each method's map */
function about(row, parent) {
  make("b", parent, "Explains: " + (at("label", row) ?? "–"));
  make("span", parent, ", probability " + shareText(at("probability", row)));
}
function tiles(row) {
  const name = at("id", row), label = at("label", row) ?? "–", top = at("top", row) ?? "–";
  return [
    {alt: "Image " + name, line: "Image", small: "taken for: " + top},
    ...data.methods.map((method, n) => (
      {alt: `Map of ${name} by ${method}, for ${label}`, line: method, small: data.said[row][n]})),
  ];
}
function histograms() {}
start();
