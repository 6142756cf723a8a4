/* ---- a card: the attacked image and its map in one run, and below in the other */
function about(row, parent) {
  make("b", parent, "Target: " + (at("target", row) ?? "–"));
}
function tiles(row) {
  return data.names[row].flatMap((name, side) => {
    const key = side ? "second." : "first.", after = at(key + "adversarial", row) ?? "–";
    const target = explainedClass(row, after), what = `${at("id", row)} in ${name}`;
    return [
      {alt: "Attacked image " + what, line: `${name}: ${after}`, small: at(key + "outcome", row)},
      {alt: `Map of attacked ${what}, for ${target}`, line: "explains: " + target,
        small: shareText(at(key + "energy_adversarial", row)) + " in the patch",
        empty: data.empty[row][side] ? "no evidence for this class" : ""},
    ];
  });
}
function histograms() {}
byId("sides").hidden = !order.length;
start();
