"""Which networks load, are attacked, bounded and proven?"""
