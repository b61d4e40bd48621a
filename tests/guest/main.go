// Command guest is the init program of the guests that the tests boot: it loads
// the vsock driver, tells its CID on the console and then does what the host asks
// over vsock (package script).
package main

import (
	"fmt"
	"os"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() != 1 { // it mounts, loads modules and powers off
		fmt.Fprintln(os.Stderr, "guest: must be the init of a virtual machine")
		os.Exit(2)
	}
	say("failed: %v", run())
	powerOff()
}

// run serves for as long as the guest lives; it returns only what went wrong.
func run() error {
	if err := prepare(); err != nil {
		return err
	}
	cid, err := localCID()
	if err != nil {
		return err
	}
	l, err := listen(script.ControlPort, kind{})
	if err != nil {
		return err
	}
	say("ready cid=%d kernel=%s", cid, release())
	return newAgent().serve(l)
}

// say writes a line to the console, where the host looks for it.
func say(format string, args ...any) {
	fmt.Printf("guest: "+format+"\n", args...)
}

func powerOff() { unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) }

func reboot() { unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) }
