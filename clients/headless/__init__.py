"""A WebRTC client without a screen: sends speech, records the actor, measures what came back."""
