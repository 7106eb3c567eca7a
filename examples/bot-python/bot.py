"""A bot that answers "!ping", in a room and in direct messages."""

import os

import socketio

room = os.environ.get("ROOMCAST_ROOM", "lobby")
url = os.environ.get("ROOMCAST_URL", "http://localhost:9000")
bot = socketio.Client()


# This runs again after each reconnect, so that the bot is in the room again.
@bot.event
def connect():
    bot.call("profile", {"name": "pingbot"})
    answer = bot.call("join", {"room": room})
    print(f"in {room}" if answer["ok"] else answer["error"]["message"], flush=True)


# Every stored event ends with its offset, which this bot does not need.
@bot.event
def message(said, _offset):
    if said["text"] == "!ping":
        bot.emit("send", {"room": said["room"], "text": f"pong, {said['from']['name']}"})


bot.connect(f"{url}?dialect=native", retry=True)
bot.wait()
