// Package muxer is the virtio-vsock device: it joins the connections of one
// guest with AF_UNIX sockets of the host.
//
// A guest that connects to port P reaches the program that listens on
// <uds-path>_P. A host program that connects to <uds-path> and writes
// "CONNECT P\n" reaches the guest's listener on P and reads "OK <port>\n". Where the
// guest's socket is of type SOCK_SEQPACKET so is the host program's, which connects to
// <uds-path>_seqpacket.
//
// One Muxer serves one guest. Everything in it is confined to the goroutine of
// its event loop, except Stats, which any goroutine may read. Events only note
// what a socket can do; Work then moves bytes, a bounded amount at a time, so
// that every connection gets its turn.
//
// Payload moves between guest memory and host sockets by vectored I/O. Only what a
// host socket does not take is copied, into the connection's csm.TxBuf or
// csm.MessageBuf, and the messages of a guest that come in pieces.
package muxer
