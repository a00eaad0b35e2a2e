"""What schemathesis cannot know by itself: the media type of a piece of an upload is plain bytes."""

import schemathesis

schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")
