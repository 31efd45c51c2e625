"""TensorBoard's files, read as TensorBoard reads them."""

import io
import struct

from tensorboardX.proto.event_pb2 import Event, SessionLog


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def read_records(path):
    """TFRecord framing: length, its masked CRC, data, its masked CRC. What a kill cut off at the end is passed over."""

    def check(data, expected):
        crc = crc32c(data)
        assert ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF == struct.unpack("<I", expected)[0]

    file = io.BytesIO(path.read_bytes())
    while len(header := file.read(12)) == 12:
        check(header[:8], header[8:])
        length = struct.unpack("<Q", header[:8])[0]
        record = file.read(length + 4)
        if len(record) < length + 4:
            break
        check(record[:-4], record[-4:])
        yield Event.FromString(record[:-4])


def read_events(workdir):
    return [event for path in sorted(workdir.glob("events.*")) for event in read_records(path)]


def shown(workdir):
    """{(step, tag): value}: hidden is what lies at or after the start of a session and was written before it."""
    scalars = {}
    for event in read_events(workdir):
        if event.session_log.status == SessionLog.START:
            scalars = {(step, tag): value for (step, tag), value in scalars.items() if step < event.step}
        for value in event.summary.value:
            scalars[event.step, value.tag] = value.simple_value
    return scalars
