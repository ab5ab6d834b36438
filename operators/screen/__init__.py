"""What commands of several packages print, and the option that asks for it as JSON."""
