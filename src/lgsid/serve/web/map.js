// The map: where the user is, how far they go, dots of all items, numbered pins of an answer, lines to neighbours.
import { calm, el, later, narrow, styleOf } from "./dom.js";
import { makeGrid, makeNames } from "./grid.js";
import { t } from "./i18n.js";
import { Points } from "./points.js";

const LEGEND_PX = 250; // which the lines to neighbours are not to lie under

export class ItemMap {
  // told: { place(latLng), item(row), over(row, x, y), out(), moved() }
  constructor(L, node, settings, start, told) {
    this.L = L;
    this.told = told;
    this.map = L.map(node, {
      zoomControl: false, attributionControl: false, zoomSnap: 0.5, minZoom: 2, maxZoom: 18, worldCopyJump: true,
      fadeAnimation: !calm(), zoomAnimation: !calm(), inertia: !calm(),
    });
    this.map.createPane("grid").style.zIndex = 150;
    this.map.createPane("names").style.zIndex = 410;
    this.map.getPane("names").style.pointerEvents = "none";
    this.map.fitBounds(start.bounds, { animate: false, padding: [20, 20] });
    this.background(settings, start);
    this.points = new Points(L);
    this.points.layer.addTo(this.map);
    this.extras = L.layerGroup().addTo(this.map);
    this.pins = L.layerGroup().addTo(this.map);
    this.controls();
    this.listen(node);
  }

  background(settings, start) {
    if (settings.tiles_url) {
      const tiles = this.L.tileLayer(settings.tiles_url, { maxZoom: 19, attribution: settings.tiles_attribution });
      this.L.control.attribution({ prefix: false }).addTo(this.map);
      tiles.addTo(this.map);
    } else {
      this.grid = makeGrid(this.L).addTo(this.map);
      this.names = makeNames(this.L, start).addTo(this.map);
    }
  }

  controls() {
    this.L.control.scale({ imperial: false, position: "bottomright", maxWidth: 110 }).addTo(this.map);
    this.zoom = this.L.control.zoom({ position: "bottomright" }).addTo(this.map);
    this.words();
  }

  words() {
    for (const [name, key] of [["in", "map.in"], ["out", "map.out"]]) {
      const button = this.map.getContainer().querySelector(`.leaflet-control-zoom-${name}`);
      button.title = t(key);
      button.setAttribute("aria-label", t(key));
    }
    this.place?.getElement()?.setAttribute("title", t("map.place"));
  }

  listen(node) {
    this.map.on("click", (event) => {
      const row = this.points.at(this.map, event.containerPoint);
      if (row >= 0) this.told.item(row);
      else this.told.place(event.latlng.wrap());
    });
    this.map.on("mousemove", (event) => {
      const row = this.points.at(this.map, event.containerPoint);
      node.classList.toggle("pointed", row >= 0);
      if (row >= 0) this.told.over(row, event.originalEvent.clientX, event.originalEvent.clientY);
      else this.told.out();
    });
    this.map.on("mouseout movestart", () => this.told.out());
    this.map.on("moveend", later(120, () => this.told.moved()));
    node.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.target !== node) return;
      event.preventDefault();
      this.told.place(this.map.getCenter().wrap());
    });
    new ResizeObserver(() => this.map.invalidateSize({ pan: false })).observe(node);
  }

  // Where the user is and the circle within reach, metres
  showPlace(place, radius, move) {
    const { L } = this;
    const at = [place.lat, place.lon];
    if (!this.place) {
      const icon = L.divIcon({ className: "here", html: el("span"), iconSize: [22, 22] });
      this.place = L.marker(at, { icon, keyboard: false, interactive: false, zIndexOffset: 2000 }).addTo(this.map);
      this.circle = L.circle(at, { radius, className: "reach", interactive: false }).addTo(this.map);
    }
    this.place.setLatLng(at);
    this.circle.setLatLng(at).setRadius(radius);
    const view = this.map.getBounds();
    const all = this.circle.getBounds();
    const small = this.map.latLngToContainerPoint(all.getNorthEast()).x - this.map.latLngToContainerPoint(all.getSouthWest()).x;
    const fits = view.contains(all) && small > 0.25 * Math.min(this.map.getSize().x, this.map.getSize().y);
    if (move || !fits) this.fit(all);
    this.words();
  }

  fit(bounds, left = 0) {
    const side = narrow() ? 12 : 40;
    this.map.fitBounds(bounds, { animate: !calm(), paddingTopLeft: [side + left, side], paddingBottomRight: [side, side], maxZoom: 16 });
  }

  // Numbered pins, best first; hover of one is told with its number
  showAnswer(items, colour, on) {
    const { L } = this;
    this.pins.clearLayers();
    this.extras.clearLayers();
    this.marked = items.map((item, rank) => {
      const pin = el("span", {}, String(rank + 1));
      pin.style.setProperty("--token", colour(item.sid));
      const icon = L.divIcon({ className: "pin", html: pin, iconSize: [24, 24] });
      const marker = L.marker([item.place.lat_deg, item.place.lon_deg], { icon, keyboard: false, zIndexOffset: 1000 - rank });
      marker.on("click", () => on.select(item));
      marker.on("mouseover", () => on.over(rank));
      marker.on("mouseout", () => on.out(rank));
      return marker.addTo(this.pins);
    });
    this.points.show({ dimmed: items.length > 0 });
  }

  highlight(rank, yes) {
    const marker = this.marked?.[rank];
    marker?.getElement()?.classList.toggle("raised", yes);
    marker?.setZIndexOffset(yes ? 1500 : 1000 - rank);
  }

  // What a second list has beside the pins
  ringAlso(items) {
    for (const { place } of items) {
      this.L.circleMarker([place.lat_deg, place.lon_deg], { radius: 9, color: styleOf("--before"), weight: 2, dashArray: "4 3", fill: false, interactive: false }).addTo(this.extras);
    }
  }

  // An item and its neighbours before and after alignment
  showNeighbours(item, before, after, move = true) {
    const { L } = this;
    this.pins.clearLayers();
    this.extras.clearLayers();
    this.marked = [];
    const from = [item.place.lat_deg, item.place.lon_deg];
    const draw = (found, name, dash) => {
      for (const other of found) {
        const to = [other.place.lat_deg, other.place.lon_deg];
        const colour = styleOf(`--${name}`);
        L.polyline([from, to], { color: colour, weight: 1.5, opacity: 0.75, dashArray: dash, interactive: false }).addTo(this.extras);
        L.circleMarker(to, { radius: 5, color: colour, weight: 2, fillColor: styleOf("--map"), fillOpacity: 1, interactive: false }).addTo(this.extras);
      }
    };
    draw(before, "before", "5 5");
    draw(after, "after", null);
    L.circleMarker(from, { radius: 7, color: styleOf("--ink"), weight: 3, fillColor: styleOf("--surface"), fillOpacity: 1, interactive: false }).addTo(this.extras);
    this.points.show({ dimmed: true });
    const all = [from, ...[...before, ...after].map((other) => [other.place.lat_deg, other.place.lon_deg])];
    if (move) this.fit(L.latLngBounds(all), narrow() ? 0 : LEGEND_PX);
  }

  clear() {
    this.pins.clearLayers();
    this.extras.clearLayers();
    this.marked = [];
    this.points.show({ dimmed: false });
  }

  recolour(colours) {
    this.points.show({ colours });
    this.grid?.redraw();
    this.names?.redraw();
  }

  centre() {
    const { lat, lng } = this.map.getCenter().wrap();
    return { lat, lon: lng };
  }

  go(place, zoom = 12) {
    this.map.setView([place.lat, place.lon], Math.max(this.map.getZoom(), zoom), { animate: !calm() });
  }
}
