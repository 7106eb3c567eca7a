// A bot that answers "!ping", in a room and in direct messages.

import { io } from "socket.io-client";

const room = process.env.ROOMCAST_ROOM ?? "lobby";
const url = process.env.ROOMCAST_URL ?? "http://localhost:9000";
const socket = io(url, { query: { dialect: "native" } });

// This runs again after each reconnect, so that the bot is in the room again.
socket.on("connect", async () => {
  await socket.emitWithAck("profile", { name: "pingbot" });
  const answer = await socket.emitWithAck("join", { room });
  console.log(answer.ok ? `in ${room}` : answer.error.message);
});

socket.on("message", ({ room, from, text }) => {
  if (text === "!ping") socket.emit("send", { room, text: `pong, ${from.name}` });
});

socket.on("error", ({ message }) => console.error(message));
socket.on("connect_error", ({ message }) => console.error(message));
