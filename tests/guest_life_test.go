package tests

import (
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
)

// Guest after guest on one daemon, and each leaves as those of test farms do: it prints
// its result and powers off at once. Every byte must arrive, at a program that reads
// only when the guest is gone.
func TestGuestAfterGuest(t *testing.T) {
	const result = 200 * kib // within the window, so the guest does not wait for the reader
	onEach(t, machines, func(t *testing.T, m machine) {
		d := m.daemon(t)
		for seed := range byte(3) {
			l := m.on(t, d)
			l.mustWork(t)
			port, from := l.listen(t)
			err := l.Send(script.Request{
				Op: script.Dial, Port: port, Then: script.PowerOff,
				Steps: []script.Step{{Do: script.Send, Bytes: result, Seed: seed}},
			})
			if err != nil {
				t.Fatal(err)
			}
			c := accept(t, from)
			l.AwaitEnd(t)
			r := script.Run(c, takeBulk, nil)
			if r.Err() != nil || r.Received != result || r.ReceivedSum != script.Sum(seed, result) {
				t.Errorf("%d of %d bytes arrived: %v", r.Received, result, r.Err())
			}
		}
	})
}

func TestGuestReboots(t *testing.T) {
	onEach(t, machines, func(t *testing.T, m machine) {
		l := newLab(t, m)
		old := l.dial(t, l.serve(t, script.Step{Do: script.Wait, Gate: "never"}))
		if err := l.Send(script.Request{Op: script.Reboot}); err != nil {
			t.Fatal(err)
		}
		l.AwaitBoot(t)
		mustEnd(t, old)
		l.mustWork(t)
	})
}

func TestGuestKilledInTransfer(t *testing.T) {
	onEach(t, machines, func(t *testing.T, m machine) {
		l := newLab(t, m)
		load := l.load(t)
		l.Kill()
		load.mustEnd(t)
		m.on(t, l.Daemon).mustWork(t)
	})
}
