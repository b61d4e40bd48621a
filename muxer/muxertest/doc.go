// Package muxertest is the guest's side of a virtio-vsock device, for tests and
// benchmarks. It needs a guest's memory and rings with their kick and call
// descriptors, nothing of the device: it drives a muxer in the same process as
// well as a real daemon behind a vhost-user frontend.
//
// Driver moves packets: any header, any framing, no rules. It keeps receive
// buffers posted as Linux does. One goroutine uses it.
//
//	d := muxertest.NewDriver(t, mem, rx, tx, muxertest.Options{})
//	d.Send(d.Header(1024, 52, csm.OpRequest), nil) // guest port, host port
//	p := d.Expect(csm.OpResponse)
//
// Guest adds what a guest kernel does: connections, credit, shutdown, RST for
// strangers. A goroutine of its own serves the interrupts; its methods and those
// of Conn and Listener are safe for concurrent use.
//
//	g := muxertest.NewGuest(d)
//	c, err := g.Dial(52)
//	l := g.Listen(1234)
//	c, err = l.Accept()
//	c.Write(p); c.Read(p); c.Shutdown(csm.ShutdownSend); c.Close()
//
// With an event ring in its Options, both handle TRANSPORT_RESET.
//
// Every wait ends after Options.Timeout, with an error or a failed test.
package muxertest
