package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// driver is the directory of the vsock driver, with a link to each device it has.
const driver = "/sys/bus/virtio/drivers/vmw_vsock_virtio_transport"

// ringPacked is VIRTIO_F_RING_PACKED.
const ringPacked = 34

// vsockDevice returns the name of the vsock device.
func vsockDevice() (string, error) {
	found, err := filepath.Glob(filepath.Join(driver, "virtio*"))
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("the driver has %d devices, want one", len(found))
	}
	return filepath.Base(found[0]), nil
}

// hasFeature tells whether device and driver agreed on a feature bit.
func hasFeature(device string, bit int) (bool, error) {
	bits, err := os.ReadFile(filepath.Join(driver, device, "features"))
	if err != nil {
		return false, err
	}
	return len(bits) > bit && bits[bit] == '1', nil
}

// rebind has the driver let its device go and take it again, as from the start.
func rebind() error {
	device, err := vsockDevice()
	if err != nil {
		return err
	}
	for _, what := range []string{"unbind", "bind"} {
		if err := os.WriteFile(filepath.Join(driver, what), []byte(device), 0); err != nil {
			return err
		}
	}
	return nil
}
