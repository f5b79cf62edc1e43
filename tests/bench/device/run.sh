#!/bin/sh
# Checks and times Adaptab's kernels on this machine's GPU; needs nothing but a Vulkan driver.
# Usage: ./run.sh [--batch 32] [--length 128] [--json FILE] [--allow-software]
# Drivers complain when there is no such folder, though nothing is drawn.
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}"
here=$(cd "$(dirname "$0")" && pwd)
# The loader that came along is taken only where the system has none.
if ! ldconfig -p 2>/dev/null | grep -q 'libvulkan\.so\.1'; then
  export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$here/lib"
fi

works() {
  VK_DRIVER_FILES="$1" VK_ICD_FILENAMES="$1" "$here/bin/node" "$here/main.mjs" --section device 2>/dev/null |
    grep -q '"is_fallback":false'
}

# Drivers of real GPUs before any other: each is tried until one has a device.
if [ -z "$VK_DRIVER_FILES$VK_ICD_FILENAMES" ]; then
  own=$(mktemp -d)
  trap 'rm -rf "$own"' EXIT
  # NVIDIA's libraries are often there without the file that names them, in containers above all.
  for library in libGLX_nvidia.so.0 libEGL_nvidia.so.0; do
    printf '{"file_format_version":"1.0.0","ICD":{"library_path":"%s","api_version":"1.3.0"}}\n' "$library" >"$own/$library.json"
  done
  for driver in /etc/vulkan/icd.d/nvidia*.json /usr/share/vulkan/icd.d/nvidia*.json \
    /usr/local/nvidia/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json /usr/share/vulkan/icd.d/*.json \
    /usr/local/share/vulkan/icd.d/*.json "$own"/*.json; do
    if [ -f "$driver" ] && works "$driver"; then
      echo "Vulkan driver: $driver"
      export VK_DRIVER_FILES="$driver" VK_ICD_FILENAMES="$driver"
      break
    fi
  done
fi

"$here/bin/node" "$here/main.mjs" "$@"
