// Package csm holds one virtio-vsock connection: the packet header, the credit
// of both directions, the life cycle, and the bytes or messages that wait for a
// host socket.
//
// It does no I/O on connections and knows no clock: its owner tells it what the
// guest sent and what the host socket did, asks what is due to either, and moves
// the bytes. That makes every transition a table that a test can hold it against.
//
// # A connection in one page (virtio v1.4 §5.10.6)
//
//	REQUEST      open                       RESPONSE        accepted
//	RW           payload                    RST             refused, or over for good
//	SHUTDOWN     bit 0: will not receive    CREDIT_UPDATE   buffer space moved
//	             bit 1: will not send       CREDIT_REQUEST  please tell the buffer space
//
// Every packet carries the sender's buffer size (buf_alloc) and how many bytes it
// has consumed in all (fwd_cnt). A sender may have buf_alloc bytes beyond fwd_cnt
// in flight. An orderly end is SHUTDOWN with both bits, answered by RST once the
// receiver has passed on what it holds.
//
// A connection carries bytes (STREAM) or messages (SEQPACKET). A message may come in
// several RW packets, the last of which has the flag EOM; all else is the same for
// both.
//
// Directions are named from the guest's side: rx is towards the guest, tx comes
// from it. Everything here is confined to the goroutine that owns the connection.
package csm
