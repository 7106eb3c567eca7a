import type { ReactNode } from "react";
import { SocketProvider } from "./SocketProvider";

export const metadata = { title: "Roomcast with Next.js", icons: { icon: "data:," } };

export default function Layout({ children }: { children: ReactNode }) {
  return (
    <html lang="en">
      <body>
        <SocketProvider>{children}</SocketProvider>
      </body>
    </html>
  );
}
