package ctl

import (
	"context"
	"errors"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/control"
)

// picture is what the daemon told at one moment.
type picture struct {
	at          time.Time
	vms         []control.VM
	connections []control.Connection
	untold      error // why there are no connections, or nil
}

// takePicture asks the daemon. One that cannot tell of connections, as while a VM does
// not answer, can still tell of VMs.
func takePicture(ctx context.Context, client *control.Client) (*picture, error) {
	vms, err := client.VMs(ctx)
	if err != nil {
		return nil, err
	}
	connections, err := client.Connections(ctx, "")
	p := &picture{time.Now(), vms, connections, err}
	if _, refused := errors.AsType[*control.Error](err); err != nil && !refused {
		return nil, err
	}
	return p, nil
}

// key tells the things of a picture apart. A VM has its name alone.
type key struct {
	vm, typ             string
	guestPort, hostPort uint32
	lingers             bool // it is over for the guest, and another one may have its ports
}

func keyOf(c *control.Connection) key {
	return key{c.VM, c.Type, c.GuestPort, c.HostPort, c.State == "lingering"}
}

// counts are what only grows while a VM or a connection lives or, of rates, what it
// grows by each second.
type counts struct {
	age                  float64 // in seconds
	txBytes, rxBytes     float64
	txPackets, rxPackets float64 // of a VM
	stalled              control.StallSeconds
}

// counts returns all counts of the picture.
func (p *picture) counts() map[key]counts {
	all := make(map[key]counts)
	for _, vm := range p.vms {
		c := counts{
			age:     vm.UptimeSeconds,
			txBytes: float64(vm.TxBytes), rxBytes: float64(vm.RxBytes),
			txPackets: float64(vm.TxPackets), rxPackets: float64(vm.RxPackets),
		}
		if vm.StalledSeconds != nil {
			c.stalled = *vm.StalledSeconds
		}
		all[key{vm: vm.Name}] = c
	}
	for i := range p.connections {
		c := &p.connections[i]
		if k := keyOf(c); !k.lingers {
			all[k] = counts{age: c.AgeSeconds, txBytes: float64(c.TxBytes), rxBytes: float64(c.RxBytes)}
		}
	}
	return all
}

// ratesSince returns what each count has grown by each second since the picture before;
// nil: there is none.
func (p *picture) ratesSince(before *picture) map[key]counts {
	if before == nil {
		return nil
	}
	seconds := p.at.Sub(before.at).Seconds()
	then, rates := before.counts(), p.counts()
	for k, now := range rates {
		rates[k] = now.ratesSince(then[k], seconds)
	}
	return rates
}

// ratesSince returns what c has grown by each second. What has not aged meanwhile has
// begun since, at nothing, whatever had its name then.
func (c counts) ratesSince(before counts, seconds float64) counts {
	if c.age-before.age < seconds/2 {
		before = counts{}
	}
	each := func(now, then float64) float64 { return max(0, now-then) / seconds }
	return counts{
		age:       each(c.age, before.age),
		txBytes:   each(c.txBytes, before.txBytes),
		rxBytes:   each(c.rxBytes, before.rxBytes),
		txPackets: each(c.txPackets, before.txPackets),
		rxPackets: each(c.rxPackets, before.rxPackets),
		stalled: control.StallSeconds{
			Credit:     each(c.stalled.Credit, before.stalled.Credit),
			RxBuffers:  each(c.stalled.RxBuffers, before.stalled.RxBuffers),
			HostSocket: each(c.stalled.HostSocket, before.stalled.HostSocket),
		},
	}
}
