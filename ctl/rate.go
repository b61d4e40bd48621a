package ctl

import (
	"context"
	"slices"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/control"
)

// picture is what the daemon told at one moment.
type picture struct {
	at          time.Time
	vms         []control.VM
	connections []control.Connection
	unanswered  []string // the VMs that did not tell of their connections
}

// takePicture asks the daemon.
func takePicture(ctx context.Context, client *control.Client) (*picture, error) {
	vms, err := client.VMs(ctx)
	if err != nil {
		return nil, err
	}
	list, err := client.Connections(ctx, "")
	if err != nil {
		return nil, err
	}
	return &picture{time.Now(), vms, list.Connections, list.Unanswered}, nil
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
// nil: there is none. Connections of a VM that did not answer then have no rates.
func (p *picture) ratesSince(before *picture) map[key]counts {
	if before == nil {
		return nil
	}
	seconds := p.at.Sub(before.at).Seconds()
	then, rates := before.counts(), p.counts()
	for k, now := range rates {
		if k.typ != "" && slices.Contains(before.unanswered, k.vm) {
			delete(rates, k)
			continue
		}
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
