//! A host whose disk fills up keeps running what it ran, says so, and goes on when there is room.
