"use client";

import { useState, type FormEvent } from "react";
import { useChat } from "./SocketProvider";

export default function Page() {
  const { connected, messages, send } = useChat();
  const [text, setText] = useState("");

  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (text === "") return;
    send(text);
    setText("");
  };

  return (
    <main>
      <h1>Chat</h1>
      <p>{connected ? "Connected" : "Connecting"}</p>
      <ul>
        {messages.map((message, index) => (
          <li key={index}>{message}</li>
        ))}
      </ul>
      <form onSubmit={submit}>
        <input value={text} onChange={(event) => setText(event.target.value)} aria-label="Message" />
        <button>Send</button>
      </form>
    </main>
  );
}
