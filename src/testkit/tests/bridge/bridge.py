"""A bridge as people build them, on `mautrix`: with ghosts, and with encryption that it gets through its transactions.

It bridges to nothing. Who of its users is invited joins and answers every "ping …" with "pong …": ghosts in rooms where
all can be read, the bot also where it has to be decrypted.

    bridge.py <address of the homeserver> <its name> <port to listen on>

It says "ready" when it is, and ends when its standard input does.
"""

import asyncio
import logging
import sys

from mautrix.appservice import AppService
from mautrix.appservice.state_store.file import FileASStateStore
from mautrix.client import Client
from mautrix.crypto import MemoryCryptoStore, OlmMachine
from mautrix.errors import EncryptionError, SessionNotFound
from mautrix.types import EventType, Membership, MessageType, TextMessageEventContent
from mautrix.util.file_store import FileStore

KEYS_WITHIN = 30  # seconds


class State(FileASStateStore):
    """What the bridge knows of its rooms, in a file. The library's own way to it leads past the file."""

    async def open(self):
        await FileStore.open(self)

    async def flush(self):
        await FileStore.flush(self)

    async def find_shared_rooms(self, user_id):
        return [room for room, members in self.members.items() if user_id in members]


class Bridge:
    def __init__(self, address, name, port):
        self.name, self.port = name, port
        self.state = State("bridge.json", binary=False)
        self.az = AppService(
            server=address, domain=name, as_token="as-secret", hs_token="hs-secret", bot_localpart="bridge",
            id="bridge", state_store=self.state, ephemeral_events=True, encryption_events=True,
        )
        self.az.query_user = self.make_ghost
        self.az.matrix_event_handler(self.on_event)

    async def start(self):
        await self.az.start("127.0.0.1", self.port)
        await self.az.intent.ensure_registered()
        client = Client(mxid=self.az.bot_mxid, base_url=self.az.server, token="as-secret", state_store=self.state)
        # A device without a login.
        await client.create_device_msc4190(device_id="", initial_display_name="Bridge")
        self.crypto = OlmMachine(client, MemoryCryptoStore("bridge", "pickle"), self.state)
        self.az.otk_handler = self.crypto.handle_as_otk_counts
        self.az.device_list_handler = self.crypto.handle_as_device_lists
        self.az.to_device_handler = self.crypto.handle_as_to_device_event
        await self.crypto.load()
        await self.crypto.share_keys()

    def is_ours(self, user):
        return user == self.az.bot_mxid or user.startswith("@bridge_") and user.endswith(f":{self.name}")

    async def make_ghost(self, user):
        if not self.is_ours(user):
            return None
        await self.az.intent.user(user).ensure_registered()
        return {"made": True}

    def intent(self, user):
        return self.az.intent if user == self.az.bot_mxid else self.az.intent.user(user)

    async def on_event(self, event):
        if event.type == EventType.ROOM_MEMBER:
            if event.content.membership == Membership.INVITE and self.is_ours(event.state_key):
                intent = self.intent(event.state_key)
                await intent.ensure_registered()
                await intent.join_room_by_id(event.room_id)
                await self.learn(event.room_id, intent)
            else:
                await self.crypto.handle_member_event(event)
        elif event.type == EventType.ROOM_MESSAGE and not self.is_ours(event.sender):
            await self.answer(event.room_id, event.content.body)
        elif event.type == EventType.ROOM_ENCRYPTED and not self.is_ours(event.sender):
            decrypted = await self.decrypt(event)
            await self.answer(event.room_id, decrypted.content.body)

    async def learn(self, room, intent):
        """What a bridge asks of a room that it comes into."""
        for event in await intent.get_state(room):
            await self.state.update_state(event)
        # It may be killed at any time, and has to know its rooms when it is back.
        await self.state.flush()

    async def speaker(self, room):
        members = await self.state.get_members(room) or []
        ours = [user for user in members if self.is_ours(user)]
        return self.intent(ours[0])

    async def answer(self, room, text):
        if not text.startswith("ping "):
            return
        content = TextMessageEventContent(msgtype=MessageType.TEXT, body=text.replace("ping", "pong", 1))
        intent, kind = await self.speaker(room), EventType.ROOM_MESSAGE
        if await self.state.is_encrypted(room):
            content, kind = await self.encrypt(room, kind, content), EventType.ROOM_ENCRYPTED
        await intent.send_message_event(room, kind, content)

    async def encrypt(self, room, kind, content):
        try:
            return await self.crypto.encrypt_megolm_event(room, kind, content)
        except EncryptionError:
            members = await self.state.get_members(room)
            await self.crypto.share_group_session(room, [user for user in members if not self.is_ours(user)])
            return await self.crypto.encrypt_megolm_event(room, kind, content)

    async def decrypt(self, event):
        try:
            return await self.crypto.decrypt_megolm_event(event)
        except SessionNotFound as missing:
            await self.crypto.wait_for_session(event.room_id, missing.session_id, timeout=KEYS_WITHIN)
            return await self.crypto.decrypt_megolm_event(event)


async def main(address, name, port):
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    bridge = Bridge(address, name, int(port))
    await bridge.start()
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
