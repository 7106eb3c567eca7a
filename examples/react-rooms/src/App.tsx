// Join a room by its name and talk in it, as in the tutorials about rooms.

import { useEffect, useState, type FormEvent } from "react";
import { io } from "socket.io-client";

interface Message {
  room: string;
  author: string;
  message: string;
}

const socket = io(import.meta.env.VITE_ROOMCAST_URL ?? "http://localhost:9000");

export function App() {
  const [author, setAuthor] = useState("");
  const [room, setRoom] = useState("");
  const [joined, setJoined] = useState(false);

  const join = (event: FormEvent) => {
    event.preventDefault();
    if (author === "" || room === "") return;
    socket.emit("join_room", room);
    setJoined(true);
  };

  if (joined) return <Room author={author} room={room} />;
  return (
    <form onSubmit={join}>
      <h1>Join a room</h1>
      <input placeholder="Name" value={author} onChange={(event) => setAuthor(event.target.value)} />
      <input placeholder="Room" value={room} onChange={(event) => setRoom(event.target.value)} />
      <button>Join</button>
    </form>
  );
}

function Room({ author, room }: { author: string; room: string }) {
  const [messages, setMessages] = useState<Message[]>([]);
  const [text, setText] = useState("");

  useEffect(() => {
    const receive = (message: Message) => setMessages((all) => [...all, message]);
    socket.on("receive_message", receive);
    return () => {
      socket.off("receive_message", receive);
    };
  }, []);

  const send = (event: FormEvent) => {
    event.preventDefault();
    if (text === "") return;
    const message = { room, author, message: text };
    socket.emit("send_message", message);
    // The server tells the others. The sender shows its own message itself.
    setMessages((all) => [...all, message]);
    setText("");
  };

  return (
    <main>
      <h1>Room {room}</h1>
      <ul>
        {messages.map((message, index) => (
          <li key={index}>
            <b>{message.author}</b> <span>{message.message}</span>
          </li>
        ))}
      </ul>
      <form onSubmit={send}>
        <input placeholder="Message" value={text} onChange={(event) => setText(event.target.value)} />
        <button>Send</button>
      </form>
    </main>
  );
}
