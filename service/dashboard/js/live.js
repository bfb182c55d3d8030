// The stream of events. A browser that loses it asks again for what came after the last it had.

import { address, get } from "./api.js";

export const KEPT = 500;

export class Live {
  constructor(onState) {
    this.events = [];
    this.lost = 0;
    this.listeners = new Set();
    this.onState = onState;
    this.source = null;
  }

  async start() {
    const page = await get("events", { limit: 100 });
    this.events = page.events.reverse();
    this.tell();
    this.follow(page.last);
  }

  follow(last) {
    this.source = new EventSource(address("events", { since: last }));
    this.source.addEventListener("verdict", (message) => this.take(JSON.parse(message.data)));
    this.source.addEventListener("lost", (message) => this.miss(JSON.parse(message.data).lost));
    this.source.addEventListener("open", () => this.onState("live"));
    this.source.addEventListener("error", () => this.broken());
  }

  // The browser comes back by itself after a failed connection, but not after a refusal.
  broken() {
    const isOver = this.source.readyState === EventSource.CLOSED;
    this.onState(isOver ? "off" : "reconnecting");
    if (isOver) {
      setTimeout(() => this.again(), 2000);
    }
  }

  async again() {
    const last = this.events[0]?.id ?? 0;
    await get("session").then(() => this.follow(last), () => setTimeout(() => this.again(), 5000));
  }

  take(event) {
    if (this.events[0]?.id >= event.id) {
      return;
    }
    this.events.unshift(event);
    this.events.length = Math.min(this.events.length, KEPT);
    this.tell();
  }

  miss(number) {
    this.lost += number;
    this.tell();
  }

  relabel(event) {
    const place = this.events.findIndex((known) => known.id === event.id);
    if (place >= 0) {
      this.events[place] = { ...this.events[place], label: event.label };
    }
  }

  // However many events come, listeners draw once a frame.
  tell() {
    if (!this.due) {
      this.due = true;
      requestAnimationFrame(() => {
        this.due = false;
        this.listeners.forEach((listener) => listener());
      });
    }
  }

  listen(listener, signal) {
    this.listeners.add(listener);
    signal.addEventListener("abort", () => this.listeners.delete(listener));
    listener();
  }

  stop() {
    this.source?.close();
  }
}
