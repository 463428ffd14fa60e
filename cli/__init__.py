"""The rsray command. Installed as `rsray_cli`: no module called `cli` reaches site-packages."""
