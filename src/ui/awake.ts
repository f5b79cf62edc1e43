/** Keeps the machine from falling asleep while a run is going on, where the browser offers that. */

/** Holds the screen awake until the returned function is called; a hidden tab loses it, so it is taken again. */
export function keepAwake(): () => void {
  let lock: WakeLockSentinel | null = null
  let over = false
  const take = async (): Promise<void> => {
    if (over || document.visibilityState !== 'visible' || !('wakeLock' in navigator)) return
    // Refused on low battery or by policy: training goes on all the same.
    lock = await navigator.wakeLock.request('screen').catch(() => null)
    if (over) void lock?.release()
  }
  const again = (): void => void take()
  document.addEventListener('visibilitychange', again)
  again()
  return () => {
    over = true
    document.removeEventListener('visibilitychange', again)
    void lock?.release()
  }
}
