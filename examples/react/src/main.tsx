import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Chat } from "./Chat";
import { SocketProvider } from "./SocketProvider";

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <SocketProvider>
      <Chat />
    </SocketProvider>
  </StrictMode>,
);
