"use client";
// One socket for the whole page. A component below it calls useChat().

import { createContext, useContext, useEffect, useState, type ReactNode } from "react";
import { io, type Socket } from "socket.io-client";

const URL = process.env.NEXT_PUBLIC_ROOMCAST_URL ?? "http://localhost:9000";

interface Chat {
  connected: boolean;
  messages: string[];
  send(text: string): void;
}

// Other frontends in the same chat may send any JSON.
const toText = (body: unknown) => (typeof body === "string" ? body : JSON.stringify(body));

const ChatContext = createContext<Chat | null>(null);

export function useChat(): Chat {
  const chat = useContext(ChatContext);
  if (!chat) throw new Error("useChat() needs a <SocketProvider> around it");
  return chat;
}

export function SocketProvider({ children }: { children: ReactNode }) {
  const [socket, setSocket] = useState<Socket>();
  const [connected, setConnected] = useState(false);
  const [messages, setMessages] = useState<string[]>([]);

  // An effect runs in the browser only, so the server that renders the page opens no socket.
  useEffect(() => {
    const socket = io(URL);
    socket.on("connect", () => setConnected(true));
    socket.on("disconnect", () => setConnected(false));
    socket.on("message", (body: unknown) => setMessages((all) => [...all, toText(body)]));
    setSocket(socket);
    return () => {
      socket.disconnect();
    };
  }, []);

  const send = (text: string) => socket?.emit("user-message", text);
  return <ChatContext value={{ connected, messages, send }}>{children}</ChatContext>;
}
